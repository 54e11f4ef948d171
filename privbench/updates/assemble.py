"""From what a user has in hand to an `Observation`: model, weights, update, and what is known of how it was made."""

import importlib.util
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from privbench.core import (
    LocalTraining,
    ModelSpec,
    Normalisation,
    Observation,
    ThreatModel,
    UserError,
    VictimSpec,
    build_defense,
    canonical_names,
    parse_spec,
    resolve_defense,
    short_name,
    without_wrapper,
)
from privbench.label_recovery import has_sign_of_delta
from privbench.models import Victim, load_victim, resolve_victim
from privbench.models.lora import with_lora
from privbench.models.own import register_module
from privbench.updates.adapters import in_names_of_adapters
from privbench.updates.naming import in_names_of_timm
from privbench.updates.reading import named_by_order, read_tensors
from privbench.updates.trunk import LABEL, classifier_for_trunk

__all__ = ["UpdateSource", "observation_of", "victim_of"]


@dataclass(frozen=True)
class UpdateSource:
    """What a user says of an update.

    Attributes:
        model: A registered or timm name, `file.py:function` that returns a module, or a module.
        update: A file, tensors by name, or arrays in the order of the state; None with `after`.
        weights: Those that the server sent: a file, tensors, arrays, or `embedded`, `pretrained`, `random`; None: those of the
            module, or embedded.
        after: The weights that came back, in place of `update`.
        kind: `auto`: a delta where local training is described or `after` is given, or the sign shows it; else a gradient.
        training: What is known of local training.
        batch_size: Number of images behind it.
        labels: Of the images, where they are known.
        num_classes: Overrides the architecture's own.
        image_size: Overrides the architecture's own, in pixels.
        normalisation: Overrides the architecture's own.
        defense: What the client declares.
        lora: Adapters beside timm's layers, whose values the weights hold: `r=16`, `r=16,alpha=32,targets=qkv+proj`.
        adversary: What the attacker makes of that.
    """

    model: str | nn.Module
    update: Any = None
    weights: Any = None
    after: Any = None
    kind: Literal["auto", "gradient", "delta"] = "auto"
    training: LocalTraining | None = None
    batch_size: int = 1
    labels: tuple[int, ...] | None = None
    num_classes: int | None = None
    image_size: int | None = None
    normalisation: Normalisation | None = None
    defense: str = "none"
    lora: str | None = None
    adversary: Literal["unaware", "aware"] = "aware"
    notes: list[str] = field(default_factory=list, compare=False)


def observation_of(source: UpdateSource) -> tuple[Observation, Victim]:
    """The observation, and the victim with the weights before training.

    What was decided on the way (a sign turned, tensors left out) is appended to `source.notes`.

    Raises:
        UserError: Something cannot be read, or does not fit.
    """
    victim, spec = victim_of(source)
    state = {name: value.detach() for name, value in victim.state_dict().items()}
    shapes = {short_name(name): value.shape for name, value in state.items()}
    update = _update(source, victim, state, shapes)
    parameters = dict(victim.named_parameters())
    surplus = [name for name in update if name in state and name not in parameters]
    update = {name: value for name, value in update.items() if name not in surplus}
    if surplus:
        source.notes.append(f"{len(surplus)} buffers of the update are no parameters and are left out")
    moved = source.after is not None or source.training is not None
    kind: Literal["gradient", "delta"] = "gradient" if source.kind == "auto" and not moved else "delta"
    kind = kind if source.kind == "auto" else source.kind
    observation = Observation(
        update=update,
        model=spec,
        model_state=state,
        batch_size=source.batch_size,
        threat_model=ThreatModel(adversary=source.adversary, labels="recovered" if source.labels is None else "known"),
        defense=resolve_defense(source.defense),
        labels=None if source.labels is None else torch.tensor(source.labels),
        kind=kind,
        training=source.training if kind == "delta" else None,
        normalisation=Normalisation(tuple(victim.mean.flatten().tolist()), tuple(victim.std.flatten().tolist())),
    )
    return _with_classifier(source, _right_way_round(source, observation, victim), victim), victim


def _with_classifier(source: UpdateSource, observation: Observation, victim: Victim) -> Observation:
    """Of a trunk, and one image: with a classifier that stands for the client's."""
    if not (victim.classifier_drawn and source.weights is not None):
        return observation
    if observation.batch_size > 1 or not classifier_for_trunk(victim, observation.gradients):
        source.notes.append("the weights have no classifier: what images explain of the update says little, look at them")
        return observation
    source.notes.append("the weights have no classifier: one that acts on the last LayerNorm as the client's did stands for it")
    return replace(
        observation,
        model_state={name: value.detach() for name, value in victim.state_dict().items()},
        labels=torch.tensor([LABEL]),
        threat_model=observation.threat_model.model_copy(update={"labels": "known"}),
    )


def victim_of(source: UpdateSource) -> tuple[Victim, ModelSpec]:
    """The model with the weights that the server sent.

    Raises:
        UserError: There is no such model, or the weights do not fit it.
    """
    defense = build_defense(resolve_defense(source.defense))
    name, weights, normalisation = source.model, source.weights, source.normalisation
    if isinstance(name, str) and ".py:" in name:
        name = _module_of(name)
    if source.lora is not None:
        name, normalisation = _with_adapters(replace(source, model=name), source.lora)
    if hasattr(name, "get_base_model"):  # of peft: the network itself, with its adapters inside
        name = cast(nn.Module, cast(Any, name).get_base_model())
    if isinstance(name, nn.Module):
        name, kept = register_module(name, image_size=source.image_size, num_classes=source.num_classes)
        weights = str(kept) if weights is None else weights
    named = isinstance(weights, str) and weights in {"embedded", "pretrained", "random"}
    chosen = str(weights) if named else "embedded" if weights is None else "random"
    resolved = resolve_victim(name, chosen, defense, num_classes=source.num_classes, image_size=source.image_size)
    victim = load_victim(
        VictimSpec(model=resolved.model, weights=chosen, weights_sha256=resolved.weights_sha256),
        defense,
        generator=torch.Generator().manual_seed(0),
    )
    if weights is not None and not named:
        _load(victim, read_tensors(weights), source.notes)
    if normalisation is not None:
        victim.normalise_by(normalisation)
    return victim.eval(), resolved.model


def _with_adapters(source: UpdateSource, text: str) -> tuple[nn.Module, Normalisation]:
    """The plain model with adapters as the user describes them, whose values are still to be loaded, and its normalisation."""
    given = dict(parse_spec(f"lora:{text}").parameters)
    unknown = [key for key in given if key not in {"r", "alpha", "targets", "dora"}]
    dora = str(given.get("dora", "false")).lower()
    try:
        rank = int(given.pop("r", ""))
        alpha = float(given.pop("alpha", rank))
    except ValueError:
        rank, alpha = 0, 0.0
    if unknown or rank < 1 or source.weights is None or dora not in {"true", "false"}:
        raise UserError(
            f"cannot take adapters --lora {text[:60]} with weights {source.weights or 'of none'}; accepted: "
            "r=RANK[,alpha=NUMBER][,targets=qkv+proj][,dora=true], and --weights with the adapters' own (lora_A, lora_B)"
        )
    plain, _ = victim_of(replace(source, lora=None, weights="random"))
    targets = given.get("targets", "qkv").split("+")
    generator = torch.Generator().manual_seed(0)
    network = with_lora(plain.network, rank, alpha=alpha, targets=targets, dora=dora == "true", generator=generator)
    return network, Normalisation(tuple(plain.mean.flatten().tolist()), tuple(plain.std.flatten().tolist()))


def _in_own_names(tensors: Mapping[str, Tensor], victim: Victim) -> dict[str, Tensor]:
    """By the victim's names: as they are, without a wrapper's prefix, or from another library's; the way that fits most."""
    own = victim.state_dict().keys()
    tables: list[dict[str, Tensor]] = []
    for table in _ways(tensors):
        tables.append(in_names_of_adapters(table, victim.network, own))
        if tables[-1].keys() <= own:
            return tables[-1]
    return max(tables, key=lambda one: len(one.keys() & own))


def _ways(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Names without one wrapper's prefix after another: a module's own parts may be called as wrappers are."""
    names = list(tensors)
    while len(set(names)) == len(tensors):
        yield {f"network.{short_name(name)}": value for name, value in zip(names, tensors.values(), strict=True)}
        shorter = [without_wrapper(name) for name in names]
        if shorter == names:
            break
        names = shorter
    yield canonical_names(in_names_of_timm(tensors))


def _complete_classifier(victim: Victim, own: Mapping[str, Tensor], state: dict[str, Tensor], notes: list[str]) -> None:
    """Weights of a trunk have no classifier, and some classifiers no bias: what the model was built with, or zero, is taken."""
    missing = [name for name in own if name not in state]
    try:
        weight, bias = victim.classifier_names()
    except UserError:
        return
    if missing == [bias]:
        state[bias] = torch.zeros_like(own[bias])
        notes.append("the classifier of the weights has no bias: it is taken to be zero")
    elif set(missing) == {weight, bias}:
        state |= {name: own[name] for name in missing}
        victim.classifier_drawn = True


def _load(victim: Victim, given: dict[str, Tensor] | list[Tensor], notes: list[str]) -> None:
    own = victim.state_dict()
    shapes = {short_name(name): value.shape for name, value in own.items()}
    table = named_by_order(given, shapes) if isinstance(given, list) else given
    state = _in_own_names(table, victim)
    for name in own:  # weights without adapters: those of the layers below
        plain = name.replace(".base_layer.", ".").replace(".original_module.", ".")
        if name not in state and plain in state:
            state[name] = state[plain]
    _complete_classifier(victim, own, state, notes)
    missing = [short_name(name) for name in own if name not in state]
    wrong = [name for name in own if name in state and state[name].shape != own[name].shape]
    if missing:
        raise UserError(
            f"the weights lack {missing[0]}"
            + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
            + " of the model; give the weights of this very architecture (--model, --num-classes)"
        )
    if wrong:
        raise UserError(
            f"{short_name(wrong[0])} of the weights has shape {tuple(state[wrong[0]].shape)}, the model's is "
            f"{tuple(own[wrong[0]].shape)}; check --model, --num-classes and --input"
        )
    victim.load_state_dict({name: state[name].to(value.dtype) for name, value in own.items()})


def _update(
    source: UpdateSource, victim: Victim, state: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]
) -> dict[str, Tensor]:
    given = source.after if source.after is not None else source.update
    if given is None:
        raise UserError("no update is given; accepted: a file of it, or the weights before and after (--before, --after)")
    tensors = read_tensors(given)
    table = named_by_order(tensors, shapes) if isinstance(tensors, list) else tensors
    update = _in_own_names(table, victim)
    if source.after is None:
        return update
    floating = {name: value for name, value in update.items() if value.is_floating_point() and name in state}
    return {name: (value.float() - state[name].float()) for name, value in floating.items()}


def _right_way_round(source: UpdateSource, observation: Observation, victim: Victim) -> Observation:
    """Turns an update whose sign is that of the other kind, and says so."""
    weight = victim.classifier_names()[0]
    if weight not in observation.update:
        return observation
    if has_sign_of_delta(observation, weight):
        if observation.kind == "gradient" and source.kind == "gradient":
            raise UserError(
                "the update is called a gradient and has the sign of a weight delta (its classifier's bias rises in as many "
                "classes as there are images); say --kind delta, or send minus the update"
            )
        if observation.kind == "gradient":
            source.notes.append("the sign of the classifier's bias shows a weight delta: taken as one, of unknown training")
            return replace(observation, kind="delta")
        source.notes.append("the delta is weights before less weights after: its sign is turned")
        return replace(observation, update={name: -value for name, value in observation.update.items()})
    return observation


def _module_of(text: str) -> nn.Module:
    """Calls `file.py:function`."""
    file, _, function = text.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise UserError(f"there is no file {path}; accepted for --model: a timm name, or FILE.py:FUNCTION")
    specification = importlib.util.spec_from_file_location(f"privbench_user_{path.stem}", path)
    if specification is None or specification.loader is None:
        raise UserError(f"{path} is not a Python module")
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    try:
        specification.loader.exec_module(module)
        network = getattr(module, function)()
    except Exception as error:  # a user's code raises whatever it likes
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{text} does not build a model: {type(error).__name__}: {reason}") from None
    if not isinstance(network, nn.Module):
        raise UserError(f"{text} returned a {type(network).__name__}; accepted: a torch.nn.Module that maps images to logits")
    return network
