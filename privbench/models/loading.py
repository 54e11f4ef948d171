"""Weights: embedded, random, pretrained, or from a file, checked against the architecture that they are meant for.

Embedded weights and their cards are in `cards`; how files are read is in `checkpoints`.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from privbench.core import Defense, ModelSpec, UserError, VictimSpec
from privbench.models.cards import embedded_path, file_sha256
from privbench.models.checkpoints import RESAMPLED, fitted_names, load_state, resampled_positions
from privbench.models.victim import Victim
from privbench.models.zoo import architecture, build_model, default_spec, has_classifier, require_classifies

__all__ = [
    "load_victim",
    "position_rows",
    "pretrained_state",
    "resolve_victim",
]


def resolve_victim(
    model: str,
    weights: str,
    defense: Defense,
    *,
    num_classes: int | None = None,
    image_size: int | None = None,
) -> VictimSpec:
    """Turns what a user asks for into a complete, hashed description.

    Args:
        model: A registered or timm model name.
        weights: `embedded`, `random`, `pretrained` (timm's hub), a file, or `resampled:FILE`, whose position embedding is
            resampled to the image size.
        defense: The defense whose embedded victim is meant.
        num_classes: Overrides the architecture's own.
        image_size: Overrides the architecture's own, in pixels.

    Raises:
        UserError: Unknown model, a defense that does not fit it, no such weights, unreadable file.
    """
    spec = default_spec(model, num_classes=num_classes, image_size=image_size)
    require_classifies(spec)
    if weights == "embedded":
        path = embedded_path(model, defense.trained_as())
        if path is None:
            _require_fit(spec, defense)
            raise UserError(
                f"there are no embedded weights of {model} trained with {defense.trained_as()}; "
                "pass --weights pretrained, a file, or for an attack random"
            )
        return VictimSpec(model=spec, weights=weights, weights_sha256=file_sha256(path))
    if weights in {"random", "pretrained"}:
        return VictimSpec(model=spec, weights=weights)
    path = _path_of(weights)
    load_state(path)
    return VictimSpec(model=spec, weights=weights, weights_sha256=file_sha256(path))


def _path_of(weights: str) -> Path:
    return Path(weights.removeprefix(RESAMPLED))


def _require_fit(spec: ModelSpec, defense: Defense) -> None:
    """Says so where a defense has no victim because it fits none of this architecture.

    Raises:
        UserError: It does not fit.
    """
    with torch.random.fork_rng(devices=[]):
        _prepared(build_model(spec), defense)


def load_victim(spec: VictimSpec, defense: Defense, *, generator: torch.Generator) -> Victim:
    """Builds the architecture, lets the defense change it, loads the weights.

    A file has the weights of the changed model, or else those of the architecture without the defense, which then changes a
    trained model, as it does those of timm's hub; the victim says so (`changed_after_training`).

    Args:
        spec: The resolved victim.
        defense: Its architecture hook is applied.
        generator: Source of random weights (`random`) and of parameters that a file lacks by design.

    Returns:
        The model in eval mode on the CPU, parameters with gradient.

    Raises:
        UserError: The weights do not fit the model, or cannot be had.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        victim = build_model(spec.model)
        plain = _shapes(victim.state_dict())
        state = _trained_state(spec, defense)
        if state is None:
            return _prepared(victim, defense).eval()
        undefended = _fitted(victim, state, spec)
        if _shapes(undefended) == plain:
            _load(victim, undefended, spec)
            victim = _prepared(victim, defense)
            victim.changed_after_training = _shapes(victim.state_dict()) != plain
        else:
            victim = _prepared(victim, defense)
            _load(victim, _fitted(victim, state, spec), spec)
    return victim.eval()


def _fitted(victim: Victim, state: Mapping[str, Tensor], spec: VictimSpec) -> dict[str, Tensor]:
    """Trained weights by the names of our wrapper, as far as they can be brought to them."""
    own = victim.state_dict()
    inside = [name.removeprefix("network.") for name in own if name.startswith("network.")]
    named = state if own.keys() == state.keys() else _wrapped(fitted_names(state, inside))
    if spec.weights.startswith(RESAMPLED):
        named = resampled_positions(named, _shapes(own), victim.parts().prefix_tokens if victim.patch_size else 0)
    if not has_classifier(spec.model.name):
        # Such weights have no classifier: it stays as it was drawn.
        drawn = {name: own[name] for name in victim.classifier_names() if name not in named}
        victim.classifier_drawn = bool(drawn)
        named = {**drawn, **named}
    if spec.weights == "pretrained":
        # Timm itself draws one where its weights have none, or one of another size.
        native = architecture(spec.model.name).num_classes
        victim.classifier_drawn = not has_classifier(spec.model.name) or spec.model.num_classes != native
    return dict(named)


def _prepared(victim: Victim, defense: Defense) -> Victim:
    prepared = defense.prepare_model(victim)
    if not isinstance(prepared, Victim):
        raise UserError(f"defense {defense.name} returned a {type(prepared).__name__}; prepare_model must return the Victim")
    return prepared


def _trained_state(spec: VictimSpec, defense: Defense) -> dict[str, Tensor] | None:
    """Trained weights by the names that they have; None for random ones."""
    if spec.weights == "random":
        return None
    return pretrained_state(spec.model) if spec.weights == "pretrained" else _checked_state(spec, defense)


def _wrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name if name.startswith("network.") else f"network.{name}": value for name, value in state.items()}


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in state.items()}


def _checked_state(spec: VictimSpec, defense: Defense) -> dict[str, Tensor]:
    embedded = embedded_path(spec.model.name, defense.trained_as()) if spec.weights == "embedded" else None
    path = embedded or _path_of(spec.weights)
    state = load_state(path)
    if spec.weights_sha256 is not None and file_sha256(path) != spec.weights_sha256:
        raise UserError(
            f"the weights {path.name} are not those of the case (sha256 differs); name the right file with --weights"
        )
    return state


def pretrained_state(spec: ModelSpec) -> dict[str, Tensor]:
    """The weights of timm's hub.

    Raises:
        UserError: They cannot be had.
    """
    import timm  # takes a second

    try:
        network = timm.create_model(spec.name, pretrained=True, num_classes=spec.num_classes)
    except Exception as error:  # the hub client raises its own and the network's errors
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"pretrained weights of {spec.name} cannot be had ({reason[:120]}); pass --weights FILE, or for an attack random"
        ) from None
    state: dict[str, Tensor] = network.state_dict()
    return state


def _load(victim: Victim, state: Mapping[str, Tensor], spec: VictimSpec) -> None:
    own = victim.state_dict()
    missing = sorted(own.keys() - state.keys())
    surplus = sorted(state.keys() - own.keys())
    shapes = [
        f"{name} is {tuple(state[name].shape)}, needed {tuple(own[name].shape)}"
        for name in own.keys() & state.keys()
        if state[name].shape != own[name].shape
    ]
    problems = [
        *([f"missing {missing[0]}" + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")] if missing else []),
        *(
            [f"not in the model: {surplus[0]}" + (f" and {len(surplus) - 1} more" if len(surplus) > 1 else "")]
            if surplus
            else []
        ),
        *sorted(shapes)[:1],
    ]
    if problems:
        positions = not missing and not surplus and all("pos_embed" in shape for shape in shapes)
        remedy = f"; {RESAMPLED}{spec.weights} resamples its positions" if positions else ""
        raise UserError(f"the weights {spec.weights} do not fit {spec.model.name}: {'; '.join(problems)}{remedy}")
    victim.load_state_dict({name: value.to(own[name].dtype) for name, value in state.items()})


def position_rows(victim: Victim) -> dict[str, Tensor]:
    """The learned position embedding by its name in the state, with the class token, which says how many rows have no place.

    Raises:
        UserError: The victim has none.
    """
    state = {
        name: value for name, value in victim.state_dict().items() if name.rpartition(".")[2] in {"pos_embed", "cls_token"}
    }
    if not any(name.endswith("pos_embed") for name in state):
        raise UserError("the victim has no learned position embedding whose rows could be kept; leave out --keep-positions")
    return {name: value.cpu().contiguous() for name, value in state.items()}
