"""Defenses from specifications, and several defenses as one.

A composition applies model, batch and gradient hooks in the order written, so `mjp+dpsgd` shuffles, computes, then clips.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from pydantic import SerializeAsAny
from torch import Tensor, nn

from privbench.core.attacker_view import AttackerView, GradientTransform, InputTransform, Undo
from privbench.core.choices import InferredChoices, choices_by_role
from privbench.core.defense import Defense, Effect, ProtectedInput, TrainingRule
from privbench.core.errors import UserError
from privbench.core.model_input import ModelInput
from privbench.core.observation import Observation
from privbench.core.registry import DEFENSES
from privbench.core.spec import ComponentSpec, parse_specs

__all__ = ["Composition", "build_defense", "resolve_defense"]


class _SumOfLosses(nn.Module):
    def __init__(self, losses: list[nn.Module]) -> None:
        super().__init__()
        self.losses = nn.ModuleList(losses)

    def forward(self, model: nn.Module, batch: ModelInput, progress: float) -> Tensor:
        return torch.stack([loss(model, batch, progress) for loss in self.losses]).sum()


def _kept(earlier: ModelInput, later: ModelInput) -> ModelInput:
    """The later input with layer noise and mixing of the earlier: what one part drew or mixed, no other part takes back."""
    mixing = earlier.label_mixing if later.label_mixing is None else later.label_mixing
    return replace(later, layer_noise={**earlier.layer_noise, **later.layer_noise}, label_mixing=mixing)


class Composition(Defense):
    """Several defenses in a row, behaving as one."""

    name: ClassVar[str] = "composition"
    parts: tuple[SerializeAsAny[Defense], ...]

    def trained_as(self) -> str:
        """The one part that needs a victim of its own decides."""
        needed = sorted({part.trained_as() for part in self.parts} - {"none"})
        if len(needed) > 1:
            raise UserError(f"defenses that need different victims ({', '.join(needed)}) do not compose; keep one of them")
        return needed[0] if needed else "none"

    def smallest_batch(self) -> int:
        """What the most demanding part needs."""
        return max(part.smallest_batch() for part in self.parts)

    def require_batch(self, size: int) -> None:
        """Asks every part."""
        for part in self.parts:
            part.require_batch(size)

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """Applies the architecture hooks in order."""
        for part in self.parts:
            model = part.prepare_model(model)
        return model

    def prepare_batch(self, model: nn.Module, batch: ModelInput, generator: torch.Generator) -> ProtectedInput:
        """Applies the batch hooks in order and gathers their choices."""
        return self._chain(batch, lambda part, current: part.prepare_batch(model, current, generator))

    def training_batch(
        self, model: nn.Module, batch: ModelInput, generator: torch.Generator, progress: float
    ) -> ProtectedInput:
        """Applies the training hooks in order and gathers their choices."""
        return self._chain(batch, lambda part, current: part.training_batch(model, current, generator, progress))

    def _chain(self, batch: ModelInput, hook: Callable[[Defense, ModelInput], ProtectedInput]) -> ProtectedInput:
        choices: dict[str, Tensor] = {}
        for part in self.parts:
            protected = hook(part, batch)
            batch = _kept(batch, protected.model_input)
            choices |= protected.choices
        return ProtectedInput(batch, choices)

    def initialise_training(self, model: nn.Module) -> None:
        """Asks every part, in order."""
        for part in self.parts:
            part.initialise_training(model)

    def decayed_weights(self) -> tuple[str, ...]:
        """The names of all parts."""
        return tuple(name for part in self.parts for name in part.decayed_weights())

    def deployed_input(self, model: nn.Module, batch: ModelInput, generator: torch.Generator) -> ModelInput:
        """Applies the inference hooks in order."""
        for part in self.parts:
            batch = _kept(batch, part.deployed_input(model, batch, generator))
        return batch

    def draws_at_inference(self) -> bool:
        """Whether one of the parts does."""
        return any(part.draws_at_inference() for part in self.parts)

    def extra_loss(self, model: nn.Module) -> nn.Module | None:
        """The sum of the parts' training losses."""
        losses = [loss for part in self.parts if (loss := part.extra_loss(model)) is not None]
        return _SumOfLosses(losses) if losses else None

    def uses_per_sample_gradients(self) -> bool:
        """Whether one of the parts does; a second one cannot follow it."""
        return any(part.uses_per_sample_gradients() for part in self.parts)

    def protect_samples(
        self, samples: dict[str, Tensor], generator: torch.Generator, expected: int | None = None
    ) -> dict[str, Tensor]:
        """Applies the part that takes samples; the others' gradient hooks come after it, as the order is checked."""
        taking = next((part for part in self.parts if part.uses_per_sample_gradients()), None)
        protect = super().protect_samples if taking is None else taking.protect_samples
        return protect(samples, generator, expected)

    def training_rules(self, model: nn.Module) -> tuple[TrainingRule, ...]:
        """All rules of all parts, in order."""
        return tuple(rule for part in self.parts for rule in part.training_rules(model))

    def protect_gradients(self, gradients: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Applies the gradient hooks in order."""
        for part in self.parts:
            gradients = part.protect_gradients(gradients, generator)
        return gradients

    def scored_choices(self, choices: Mapping[str, Tensor]) -> InferredChoices:
        """Those of all parts; orders one after another are one order."""
        return choices_by_role(choices, [pair for part in self.parts for pair in part.scored])

    def unaware(self, model: nn.Module, observation: Observation) -> AttackerView:
        """The parts' views, one after another."""
        return _one_view([part.unaware(model, observation) for part in self.parts])

    def aware(self, model: nn.Module, observation: Observation) -> AttackerView:
        """The parts' views, one after another."""
        return _one_view([part.aware(model, observation) for part in self.parts])

    def oracle(self, model: nn.Module, observation: Observation) -> AttackerView:
        """The parts' views, one after another."""
        return _one_view([part.oracle(model, observation) for part in self.parts])

    def accounted(self, *, steps: int, sample_rate: float) -> Defense:
        """Every part, accounted."""
        return Composition(parts=tuple(part.accounted(steps=steps, sample_rate=sample_rate) for part in self.parts))

    def is_simulated(self) -> bool:
        """Whether one of the parts is."""
        return any(part.is_simulated() for part in self.parts)

    def guarantee(self) -> str:
        """Every part's."""
        return " ".join(part.guarantee() for part in self.parts)


def _one_view(views: Sequence[AttackerView]) -> AttackerView:
    """What an adversary simulates of several defenses in a row."""

    def expected(names: Iterable[str]) -> dict[str, Tensor]:
        names = list(names)
        return {name: value for view in views for name, value in view.expected(names).items()}

    movable = [view.movable for view in views if view.movable is not None]
    found = [view.inferred for view in views]
    return AttackerView(
        transform_input=_transform_input(views),
        known={name: value for view in views for name, value in view.known.items()},
        remarks=tuple(remark for view in views for remark in view.remarks),
        movable=torch.stack(movable).any(dim=0) if movable else None,
        inferred=InferredChoices(
            *(next((value for one in found if (value := getattr(one, role)) is not None), None) for role in _ROLES)
        ),
        scrambled=next((view.scrambled for view in views if view.scrambled is not None), None),
        undo=_undo(views),
        transform_gradient=_transform_gradient(views),
        entries_are_exact=all(view.entries_are_exact for view in views),
        expected=expected,
    )


_ROLES = ("mask", "order", "pixel_order")


def _transform_input(views: Sequence[AttackerView]) -> InputTransform | None:
    if all(view.transform_input is None for view in views):
        return None

    def transform_input(batch: ModelInput, known: Mapping[str, Tensor]) -> ModelInput:
        for view in views:
            batch = _kept(batch, view.fed(batch, known))
        return batch

    return transform_input


def _undo(views: Sequence[AttackerView]) -> Undo | None:
    """The parts' ways back in reverse; None where one that changes the input has none."""
    changing = [view for view in views if view.transform_input is not None]
    if not changing or any(view.undo is None for view in changing):
        return None

    def undo(fed: Tensor, known: Mapping[str, Tensor]) -> Tensor:
        for one in reversed(changing):
            fed = one.undo(fed, known) if one.undo else fed
        return fed

    return undo


def _transform_gradient(views: Sequence[AttackerView]) -> GradientTransform | None:
    changing = [view for view in views if view.transform_gradient is not None]
    inside = [view.transform_gradient_inside or view.transform_gradient for view in changing[:-1]]
    transforms = [*inside, *(view.transform_gradient for view in changing[-1:])]
    if not transforms:
        return None

    def transform_gradient(
        simulated: Mapping[str, Tensor], observed: Mapping[str, Tensor], known: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        for one in filter(None, transforms):
            simulated = one(simulated, observed, known)
        return dict(simulated)

    return transform_gradient


def resolve_defense(text: str) -> tuple[ComponentSpec, ...]:
    """Reads `mjp:mask_ratio=0.27+dpsgd` and resolves every parameter.

    Raises:
        UserError: A name or a parameter is not accepted, a defense is named twice, or two do not go together.
    """
    specs = parse_specs(text)
    names = [spec.name for spec in specs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UserError(f"defense '{twice}' is named twice in '{text}'; name it once")
    parts = [DEFENSES.get(spec.name).configured(spec.parameters) for spec in specs]
    _check_order(parts)
    return tuple(ComponentSpec(name=spec.name, parameters=part.parameters()) for spec, part in zip(specs, parts, strict=True))


def build_defense(specs: Sequence[ComponentSpec]) -> Defense:
    """The defense that resolved specifications stand for.

    Raises:
        UserError: A name or a parameter is not accepted, or two defenses do not go together.
    """
    parts: list[Defense] = [DEFENSES.get(spec.name).configured(spec.parameters) for spec in specs]
    _check_order(parts)
    return parts[0] if len(parts) == 1 else Composition(parts=tuple(parts))


def _effects(part: Defense) -> set[Effect]:
    own: set[Effect] = set(part.effects)
    if part.uses_per_sample_gradients() or type(part).protect_gradients is not Defense.protect_gradients:
        own.add("batch-gradient")
    return own


def _check_order(parts: Sequence[Defense]) -> None:
    """Asks every part whether it stands what comes before it (`Defense.not_after`).

    Raises:
        UserError: It does not.
    """
    for place, part in enumerate(parts):
        for other_place, other in enumerate(parts):
            for effect in sorted(part.not_after.keys() & _effects(other)):
                always = effect == "mixed-samples"
                if other is part or not (always or other_place < place):
                    continue
                relation = "does not go with" if always else "cannot follow"
                remedy = "leave out one of them" if always else f"write {part.name}+{other.name}"
                raise UserError(f"defense {part.name} {relation} {other.name}: {part.not_after[effect]}; {remedy}")
