"""`privbench.audit`: from what a user has in hand to a report."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from privbench.adversary import simulate
from privbench.auditing.kept import Step
from privbench.auditing.plan import ORDER, attacks_of, planned
from privbench.auditing.report import AuditReport
from privbench.auditing.work import Auditor
from privbench.client import observe
from privbench.computing.machine import resolve_device
from privbench.core import (
    LocalTraining,
    Normalisation,
    Observation,
    Progress,
    ThreatModel,
    UserError,
    build_defense,
    resolve_defense,
)
from privbench.core.observation import is_saved_observation
from privbench.data import open_images
from privbench.models import DEFAULT_MODEL, Victim
from privbench.resolving.components import split_names
from privbench.updates import UpdateSource, observation_of, victim_of

__all__ = ["audit"]


def audit(
    model: str | nn.Module | None = None,
    update: Any = None,
    *,
    weights: Any = None,
    after: Any = None,
    kind: Literal["auto", "gradient", "delta"] = "auto",
    learning_rate: float | None = None,
    steps: int | None = None,
    batches: int = 1,
    optimiser: Literal["sgd", "momentum", "adamw"] = "sgd",
    weight_decay: float = 0.0,
    batch_size: int = 1,
    labels: Sequence[int] | None = None,
    num_classes: int | None = None,
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    defense: str = "none",
    lora: str | None = None,
    photos: Path | str | None = None,
    what_if: str | Sequence[str] = (),
    attacks: str | Sequence[str] | None = None,
    preset: str = "quick",
    self_test: bool | None = None,
    minutes: float | None = None,
    output: Path | str | None = None,
    device: str = "auto",
    seed: int = 0,
    say: Callable[[str], None] | None = None,
    step: Step | None = None,
    progress: Progress | None = None,
) -> AuditReport:
    """Says what one client's update gives away: runs the attacks that apply, cheapest first, until one explains the update.

    Example:
        >>> report = privbench.audit(  # doctest: +SKIP
        ...     "vit_tiny_patch16_224", "update.safetensors", weights="global.pth", learning_rate=0.01, steps=5
        ... )
        >>> report.verdict, report.sentence  # doctest: +SKIP

    Args:
        model: A timm or embedded name, `FILE.py:FUNCTION` that builds a module, or a module; None where the update is an
            `Observation` or a file of one, which hold all of this.
        update: A file (safetensors, torch, npz), tensors by name, Flower's parameters, or arrays in the order of the state.
            Without it and without `after`, `self_test=True` makes one of a known photo, which tests the set-up alone.
        weights: Those that the server sent, in any of these forms, or `embedded`, `pretrained`; None: the module's own.
        after: The weights that came back, in place of `update`.
        kind: `gradient`, `delta` (weights after less before), or `auto`.
        learning_rate: Of the client's local steps; makes the update a delta, as `steps` does.
        steps: Number of local steps.
        batches: Mini-batches of an epoch.
        optimiser: Of the local steps.
        weight_decay: Of the local steps.
        batch_size: Number of images behind the update.
        labels: Of the images, where they are known.
        num_classes: Overrides the architecture's own.
        image_size: Overrides the architecture's own, in pixels.
        mean: Of the client's normalisation, one number or three; None: as the model says.
        std: The same.
        defense: What the client declares.
        lora: Adapters (LoRA) beside a timm model's layers: `r=16`, `r=16,alpha=32,targets=qkv+proj`; `weights` hold them.
        photos: The user's own, with which reconstructions are compared by best match.
        what_if: Defenses to try on a known photo, as a list or separated by commas.
        attacks: Names in order, as a list or separated by commas, with parameters as in `run`: `NAME:KEY=VALUE`; None: the
            suite's own choice.
        preset: Of the attacks: `quick`, `standard`, ...
        self_test: Whether every attack is also run on an update made of a known photo; None: where there is an update.
        minutes: Time limit of the attacks: then the report says what is finished and what was left out, and where there is an
            `output` a repeated audit continues; None: no limit.
        output: Folder for report and pictures; a repeated audit continues there.
        device: `auto`, `cpu` or `cuda:INDEX`.
        seed: Of random choices.
        say: Gets lines on plan and progress.
        step: Told where an attack stands: what is at work, its step, of how many, and the seconds that are left.
        progress: Where attacks report to.

    Returns:
        The report, with the verdict in one sentence.

    Raises:
        UserError: Something cannot be read, or does not fit together.
    """
    named = split_names(attacks, "--attacks") if isinstance(attacks, str) else attacks
    tried = attacks_of(named or ORDER, preset)
    training = _training(learning_rate, steps, optimiser, batches, weight_decay)
    made: list[str] = []
    if model is None and not _is_observation(update):
        raise UserError("--model is needed: a timm or embedded name, or FILE.py:FUNCTION that returns a torch module")
    if update is None and after is None and model is not None:
        if not self_test:
            raise UserError("nothing to audit: give UPDATE, or --before and --after, or --self-test")
        known = _known_photo(model, weights, num_classes, image_size, defense, batch_size, seed, training)
        update, self_test, made = dict(known.update), False, ["no update was given: this one is made of a known photo"]
    if (mean is None) != (std is None):
        raise UserError("mean and std of the normalisation go together; give both")
    normalisation = None if mean is None or std is None else Normalisation(_three(mean), _three(std))
    source = UpdateSource(
        model=model or DEFAULT_MODEL,
        update=update,
        weights=weights,
        after=after,
        kind=kind,
        training=training,
        batch_size=batch_size,
        labels=None if labels is None else tuple(labels),
        num_classes=num_classes,
        image_size=image_size,
        normalisation=normalisation,
        defense=defense,
        lora=lora,
        notes=made,
    )
    saved = _saved(update)
    observation, victim = observation_of(source) if saved is None else saved
    place = resolve_device(device)
    observation, victim = observation.to(place), victim.to(place)
    tell = say or (lambda _: None)
    auditor = Auditor(
        observation,
        victim,
        known=open_images("photos"),
        # Of an update made here it is known what should come back.
        photos=None if photos is None and not made else open_images(str(photos or "photos")),
        what_if=_names(what_if),
        self_test=self_test is not False,
        seed=seed,
        say=tell,
        step=step or (lambda *_: None),
        progress=progress or Progress(),
        folder=None if output is None else Path(output),
        deadline=None if minutes is None else time.perf_counter() + 60 * minutes,
    )
    tell(f"audit of {auditor.described()}")
    for note in source.notes:
        tell(f"note: {note}")
    plan = planned(observation, victim, tried)
    for entry in plan:
        doubled = entry.seconds * (1 if self_test is False else 2)
        tell(f"plan: {entry.name}, about {doubled:.0f} s" if entry.attack else f"plan: not {entry.name}: {entry.reason}")
    report = auditor.run(plan, source.notes)
    if output is not None:
        report.save(output)
    return report


def _saved(update: Any) -> tuple[Observation, Victim] | None:
    """The observation of a file that `Observation.save` wrote, and its model; None for anything else."""
    if isinstance(update, Observation):
        observation = update
    elif isinstance(update, str | Path) and is_saved_observation(Path(update)):
        observation = Observation.load(Path(update))
    else:
        return None
    return observation, simulate(observation).model.requires_grad_(True)


def _three(values: Sequence[float]) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    return numbers * 3 if len(numbers) == 1 else numbers


def _training(
    learning_rate: float | None,
    steps: int | None,
    optimiser: Literal["sgd", "momentum", "adamw"],
    batches: int,
    weight_decay: float,
) -> LocalTraining | None:
    if learning_rate is None and steps is None:
        return None
    if learning_rate is None or steps is None:
        raise UserError("of local training both are needed, the learning rate (--lr) and the number of steps (--local-steps)")
    return LocalTraining(
        optimiser=optimiser, learning_rate=learning_rate, steps=steps, batches=batches, weight_decay=weight_decay
    )


def _is_observation(update: Any) -> bool:
    return isinstance(update, Observation) or (isinstance(update, str | Path) and is_saved_observation(Path(update)))


def _names(given: str | Sequence[str]) -> Sequence[str]:
    names = (split_names(given, "--what-if") if given else ()) if isinstance(given, str) else given
    for name in names:
        resolve_defense(name)  # refused now, whether or not it comes to be tried
    return names


def _known_photo(
    model: str | nn.Module,
    weights: Any,
    num_classes: int | None,
    image_size: int | None,
    defense: str,
    batch_size: int,
    seed: int,
    training: LocalTraining | None,
) -> Observation:
    """What a client of this set-up sends that has known photos."""
    source = UpdateSource(model=model, weights=weights, num_classes=num_classes, image_size=image_size, defense=defense)
    victim, spec = victim_of(source)
    specs = resolve_defense(defense)
    images, _ = open_images("photos").load(range(batch_size), spec.image_size)
    observation, _ = observe(
        victim,
        spec,
        build_defense(specs),
        images,
        torch.arange(batch_size) % spec.num_classes,
        declared=specs,
        threat_model=ThreatModel(),
        generator=torch.Generator().manual_seed(seed),
        training=training,
    )
    return observation
