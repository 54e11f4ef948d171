"""Soteria (Sun et al., CVPR 2021, arXiv 2012.06043): the gradient of one fully connected layer, from a pruned representation.

The layer is the classifier, and the representation what it reads. Features r whose |r| is large against the norm of their
derivative by the image are pruned in the classifier's weight gradient, for the whole batch alike; all other gradients are as
they were. As in the published code the importance of a feature is `norm(dr/dX) / (r + 0.1)`, summed over the batch, and those
below a percentile are pruned; it was made for features that are not negative, so here |r| stands for r.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from privbench.closed_form import noise_std, rows_without_signal
from privbench.core import AttackerView, Defense, Effect, ModelInput, Observation, ProtectedInput, UserError
from privbench.models import Victim

__all__ = ["PrunedRepresentation", "Soteria", "estimated_sensitivity", "feature_sensitivity", "pruned_features"]

_OFFSET = 0.1
"""Published: what keeps a feature near zero from dividing by zero."""
_AT_ONCE = 32
"""Features whose derivatives are computed together."""


class PrunedRepresentation(nn.Linear):
    """A linear layer whose weight's gradient is computed from masked features; what it returns is not changed."""

    kept: Tensor

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.in_features, layer.out_features, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        # Takes `[batch, features]`, one or zero, for one pass; no part of the weights.
        self.register_buffer("kept", torch.empty(0), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """`[batch, features]` to `[batch, classes]`."""
        if self.kept.numel() == 0:
            return super().forward(features)
        kept = super().forward(features * self.kept)
        return kept + nn.functional.linear(features * (1 - self.kept), self.weight.detach())


class Soteria(Defense):
    """Prunes the classifier's gradient by the features that tell most of the image."""

    name: ClassVar[str] = "soteria"
    effects: ClassVar[frozenset[Effect]] = frozenset({"mixed-samples"})

    p: Annotated[float, Field(gt=0, lt=1)] = 0.8
    """Share of the features that are pruned, as a percentile of their importance."""
    directions: Annotated[int, Field(ge=1, le=1024)] | None = None
    """None: derivatives as published, one backward pass for every feature. Else their norms are estimated from so many random
    directions (ours), for training; the sum over a batch averages their error out."""

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """Lets the classifier's gradient be masked; names and number of weights stay what they are."""
        path = _classifier(model)
        parent = model.get_submodule(path.rpartition(".")[0])
        setattr(parent, path.rpartition(".")[2], PrunedRepresentation(cast(nn.Linear, model.get_submodule(path))))
        return model

    def prepare_batch(self, model: nn.Module, batch: ModelInput, generator: torch.Generator) -> ProtectedInput:
        """Chooses the features; draws nothing but directions. An evaluation, which forms no gradient, has nothing to prune."""
        if not torch.is_grad_enabled():
            return ProtectedInput(batch)
        victim = cast(Victim, model)
        found = (
            feature_sensitivity(victim, batch)
            if self.directions is None
            else estimated_sensitivity(victim, batch, self.directions, generator)
        )
        pruned = pruned_features(*found, self.p)
        kept = (~pruned).to(batch.images.dtype).expand(1, len(batch.images), -1)
        return ProtectedInput(batch.with_noise({f"{_classifier(model).removeprefix('network.')}.kept": kept}))

    def aware(self, model: nn.Module, observation: Observation) -> AttackerView:
        """The pruning is simulated with the features that the update shows.

        The pruned features are the columns of the classifier's gradient that are zero, or noise alone, and those are set to
        zero in the simulated one: what was sent is compared. Nothing is random: an oracle is told nothing more.
        """
        weight = f"{_classifier(model)}.weight"
        known = {_PRUNED: _columns_without_signal(observation.gradients[weight], observation.batch_size)}

        def transform_gradient(
            simulated: Mapping[str, Tensor], _observed: Mapping[str, Tensor], known: Mapping[str, Tensor]
        ) -> dict[str, Tensor]:
            return {
                name: torch.where(known[_PRUNED], 0, value) if name == weight else value for name, value in simulated.items()
            }

        return AttackerView(known=known, transform_gradient=transform_gradient)

    def guarantee(self) -> str:
        """What the paper certifies, and of what."""
        return (
            f"Sends the classifier's gradient without {100 * self.p:.4g} % of its columns; its authors certify a distance "
            "between images only for inversion of that layer's representation, under their assumptions; no epsilon of its own "
            "(n/a): nothing is random, and the other layers' gradients are sent as they are."
        )


_PRUNED = "soteria.pruned"


def _classifier(model: nn.Module) -> str:
    """Name of the defended layer.

    Raises:
        UserError: The model ends in no linear layer with a bias.
    """
    try:
        return cast(Victim, model).classifier_names()[0].removesuffix(".weight")
    except UserError:
        raise UserError(
            "defense soteria needs a model that ends in a fully connected layer with a bias, given "
            f"{type(cast(Any, model).network).__name__}; choose another model or defense"
        ) from None


def feature_sensitivity(victim: Victim, batch: ModelInput) -> tuple[Tensor, Tensor]:
    """What the classifier reads, and how much it moves with the image.

    Args:
        victim: The model; left as found.
        batch: What it is fed.

    Returns:
        `[batch, features]` features, and the L2 norm of the derivative of each by its image's normalised pixels, same shape.
    """

    def norms(feature: Tensor) -> Tensor:
        (derivative,) = backwards(feature.expand_as(found))
        norm: Tensor = (derivative * victim.std).flatten(1).norm(dim=1)
        return norm

    with torch.no_grad():  # the parameters' own gradients take no part
        found, backwards = cast(Any, torch.func.vjp(_reader(victim, batch), batch.images))
        each = torch.eye(found.shape[1], dtype=found.dtype, device=found.device)
        sensitivity: Tensor = torch.func.vmap(norms, chunk_size=_AT_ONCE)(each).T
    return found, sensitivity


def estimated_sensitivity(
    victim: Victim, batch: ModelInput, directions: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """As `feature_sensitivity`, estimated: a normal direction changes feature i by a d with E[d^2] = norm(dr_i/dX)^2.

    Args:
        victim: The model; left as found.
        batch: What it is fed.
        directions: Drawn for each image; the relative deviation of a norm is about `1 / sqrt(2 directions)`.
        generator: Source of the directions.

    Returns:
        `[batch, features]` features, and the estimated L2 norms, same shape.
    """
    squares: list[Tensor] = []
    with torch.no_grad():
        found, backwards = cast(Any, torch.func.vjp(_reader(victim, batch), batch.images))
        # What goes backwards is linear in what comes in, so its own derivative goes forwards.
        _, forwards = cast(Any, torch.func.vjp(lambda features: backwards(features)[0], torch.zeros_like(found)))
        for _ in range(directions):
            drawn = torch.randn(batch.images.shape, generator=generator).to(batch.images)
            (change,) = forwards(drawn * victim.std)
            squares.append(change.square())
    return found, torch.stack(squares).mean(0).sqrt()


def _reader(victim: Victim, batch: ModelInput) -> Callable[[Tensor], Tensor]:
    """A function of the images: what the classifier reads, `[batch, features]`."""
    layer = victim.get_submodule(_classifier(victim))

    def features(images: Tensor) -> Tensor:
        seen: list[Tensor] = []
        hook = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        try:
            victim(images, *batch.arguments[1:])
        finally:
            hook.remove()
        return seen[0]

    return features


def pruned_features(features: Tensor, sensitivity: Tensor, share: float) -> Tensor:
    """Which features are pruned, `[features]` bool: those with the least of `sensitivity / (|r| + 0.1)`, summed over the batch.

    Args:
        features: `[batch, features]`.
        sensitivity: Same shape.
        share: Of the features, as a percentile.
    """
    importance = (sensitivity / (features.abs() + _OFFSET)).double().sum(dim=0)
    return importance < importance.quantile(share)


def _columns_without_signal(gradient: Tensor, batch: int) -> Tensor:
    """`[features]` bool: the zero columns of the classifier's gradient, or those that are noise alone where noise was added."""
    columns = gradient.T
    zero = (columns == 0).all(dim=1)
    return zero if zero.any() else rows_without_signal(columns, noise_std(gradient, batch))
