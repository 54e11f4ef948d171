"""Victims: `train` makes one under a defense, `evaluate` measures what it can still do."""

import hashlib
import inspect
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from privbench.core import UtilityReport
    from privbench.models import VictimCard
    from privbench.training import EpochReport

__all__ = ["Evaluation", "evaluate", "train"]

_UNSAID = {"output", "device", "report", "log", "note", "snapshots"}
"""Arguments of `train` that change nothing of a victim, and are not in its card."""
_TEST_IMAGES = 1000
"""So many at most are measured where nobody says how many."""


def train(
    *,
    defense: str = "none",
    model: str = "vit_mini_patch4_32",
    data: str = "cifar10",
    epochs: int = 10,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.05,
    rise: float = 0.2,
    clip: float = 1.0,
    augmentation: Literal["none", "flip", "trivial"] = "flip",
    erasing: float = 0.0,
    mixing: float = 0.0,
    smoothing: float = 0.0,
    teacher: str | None = None,
    teacher_weight: float = 0.5,
    seed: int = 0,
    device: str = "auto",
    limit: int | None = None,
    output: Path | str = Path("checkpoints"),
    snapshots: str | Sequence[int] = (),
    report: "Callable[[EpochReport], None] | None" = None,
    log: str | Sequence[str] = (),
    note: Callable[[str], None] = lambda _: None,
) -> "VictimCard":
    """Trains a victim under a defense; writes `MODEL.DEFENSE.safetensors` and its card.

    Args:
        defense: To train under, `NAME` or `NAME:KEY=VALUE`.
        model: Registered or timm name.
        data: A data set with the splits train and test, or a folder of both.
        epochs: Passes over the training data.
        batch_size: Images per step.
        learning_rate: Peak of the one-cycle schedule.
        weight_decay: Of AdamW.
        rise: Share of steps while the rate rises.
        clip: Largest norm of the gradient.
        augmentation: `none` for a few epochs; `flip`: crops and flips, black beyond the image or, where the model has batch
            normalisation, its reflection; `trivial`: an operation of TrivialAugment too, for long runs.
        erasing: Share of images with an erased rectangle.
        mixing: Share of images mixed by mixup or CutMix.
        smoothing: Part of a label that is spread over all classes.
        teacher: Model whose embedded weights teach.
        teacher_weight: Part of its predictions in the labels.
        seed: Of all random choices.
        device: `auto`, `cpu` or `cuda:INDEX`.
        limit: Only the first so many training images.
        output: Folder for weights, card and checkpoint; an interrupted run found there goes on.
        snapshots: Epochs after which the weights are kept as `MODEL.DEFENSE.epochN.safetensors` too, as `1,5-7` or numbers.
        report: Told every few batches where training stands.
        log: Experiment trackers to report to, by name.
        note: Told where a tracker shows the run, and what goes wrong with it.

    Raises:
        UserError: A name or a number is not accepted, the data has no labels, or training diverges.
    """
    given = {name: value for name, value in locals().items() if name not in _UNSAID}
    from privbench.computing.machine import resolve_device
    from privbench.core import resolve_defense
    from privbench.data import select
    from privbench.models import default_spec
    from privbench.store.files import check_output
    from privbench.training import LabelledImages, TrainingPlan
    from privbench.training import train as run_training
    from privbench.training.sources import labelled_splits, teacher_of
    from privbench.watch.logs import RunLogs, require_loggers

    loggers = (log,) if isinstance(log, str) else tuple(log)
    require_loggers(loggers)
    check_output(Path(output))
    kept = _snapshot_epochs(snapshots, epochs)
    chosen_device = resolve_device(device)
    specs = resolve_defense(defense)
    spec = default_spec(model)
    sets = labelled_splits(data)
    # Refuses a number that the data does not have.
    count = len(select(sets[0], limit=limit))
    classes = max(2, len(sets[0].class_names))
    network, called = (None, None) if teacher is None else teacher_of(teacher, classes)
    plan = TrainingPlan(
        model=model,
        defense=specs,
        dataset=sets[0].name,
        num_classes=classes,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        rise=rise,
        clip=clip,
        augmentation=augmentation,
        erasing=erasing,
        mixing=mixing,
        smoothing=smoothing,
        teacher=called,
        teacher_weight=teacher_weight,
        seed=seed,
    )
    training = LabelledImages(*sets[0].as_tensors(spec.image_size, count))
    test = LabelledImages(*sets[1].as_tensors(spec.image_size))
    with RunLogs(loggers, f"{model}.{defense}", Path(output), plan.model_dump(mode="json"), note) as logs:

        def reported(now: "EpochReport") -> None:
            logs.values("training", (now.epoch - 1) * now.batches + now.batch, {"loss": now.loss})
            if report is not None:
                report(now)

        card = run_training(
            plan,
            training,
            test,
            output=Path(output),
            device=chosen_device,
            command=_command(given),
            report=reported,
            teacher=network,
            compiled=chosen_device.type == "cuda",
            snapshots=kept,
        )
        logs.end({"accuracy": card.accuracy, "defended_accuracy": card.defended_accuracy, "seconds": card.seconds})
    return card


def _snapshot_epochs(chosen: str | Sequence[int], epochs: int) -> tuple[int, ...]:
    from privbench.core import UserError
    from privbench.resolving.resolve import parse_indices

    if not chosen:
        return ()
    kept = parse_indices(chosen, "snapshots") if isinstance(chosen, str) else tuple(chosen)
    if min(kept) < 1 or max(kept) > epochs:
        raise UserError(
            f"snapshots after epochs {','.join(map(str, kept))}; accepted: epochs from 1 to {epochs}, such as 1,{epochs}"
        )
    return kept


def _command(given: "dict[str, Any]") -> str:
    """The command that repeats a training run, for its card; a path is written PATH, for it differs by machine."""
    defaults = {name: one.default for name, one in inspect.signature(train).parameters.items()}
    words = ["privbench", "train"]
    for name, value in given.items():
        if value != defaults[name]:
            words += [f"--{name.replace('_', '-')}", "PATH" if name == "data" and "/" in str(value) else str(value)]
    return shlex.join(words)


@dataclass(frozen=True)
class Evaluation:
    """What a victim can do, and where that was written.

    Attributes:
        report: The measures.
        path: Its file; None where no folder was named.
        positions: File of the victim's position rows, where they were kept.
        remarks: What the reader must know, such as that the defense changed the victim after it was trained.
        relative_corruption_error: Mean corruption error relative to another victim's, where one was named.
    """

    report: "UtilityReport"
    path: Path | None
    positions: Path | None
    remarks: tuple[str, ...]
    relative_corruption_error: float | None


def evaluate(
    *,
    defense: str = "none",
    model: str = "vit_mini_patch4_32",
    weights: str = "embedded",
    data: str = "cifar10",
    limit: int | None = None,
    jigsaw: str = "mjp:mask_ratio=0.5",
    epsilon: float = 2 / 255,
    measure: str | Sequence[str] = "all",
    draws: int = 10,
    unknown: str | None = None,
    reference: Path | str | None = None,
    keep_positions: bool = False,
    seed: int = 0,
    device: str = "auto",
    output: Path | str | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> Evaluation:
    """Measures what a victim can still do under a defense, with layers that are random at inference on.

    Args:
        defense: `NAME:KEY=VALUE,...`; `A+B` composes.
        model: An embedded or timm model.
        weights: `embedded`, `pretrained` (timm's hub), or a file.
        data: Test images: a data set, folder or file.
        limit: The first so many; None: 1000, or all of fewer.
        jigsaw: Defense whose batch hook makes the jigsaw of masked-jigsaw accuracy, consistency and difference of features.
        epsilon: Largest change of a pixel, in [0, 1], under FGSM and PGD.
        measure: `all`, `accuracy` alone, or with it any of `jigsaw`, `attacks`, `corruptions`, `positions`.
        draws: Of layers that are random at inference: what is measured is the mean over so many.
        unknown: Images of none of the victim's classes, for AUPR: a data set, folder or file.
        reference: Report of another victim, to which the mean corruption error is relative.
        keep_positions: Whether to write the position rows too, for the figure `positions`; needs `output`.
        seed: Of all random choices.
        device: `auto`, `cpu` or `cuda:INDEX`.
        output: Folder of reports; None writes nothing.
        report: Told what is measured next.

    Raises:
        UserError: A name or a number is not accepted, labels are not those that the victim learnt, or a package is missing.
    """
    import torch
    from safetensors.torch import save

    from privbench.analysis.flags import FLAG_MEANINGS
    from privbench.computing.machine import cpu_threads, resolve_device
    from privbench.core import Training, UserError, UtilityReport, build_defense, resolve_defense
    from privbench.core.packages import require_packages
    from privbench.data import open_images, select
    from privbench.models import card_beside, load_victim, position_rows, read_card, resolve_victim
    from privbench.store.files import atomic_write, check_output
    from privbench.training import MeasureOptions, measure_utility
    from privbench.training.sources import chosen_measures, require_labels

    if weights == "random":
        raise UserError("--weights random has no utility report: nothing was learnt; accepted: embedded, pretrained or a file")
    measures = chosen_measures(measure)
    require_packages(
        "measuring utility", ["torchmetrics", "sklearn", *(["foolbox"] if "attacks" in measures else [])], "utility"
    )
    compared = None if reference is None else UtilityReport.load(Path(reference))
    folder = None if output is None else Path(output)
    if folder is not None:
        check_output(folder)
    chosen_device = resolve_device(device)
    specs = resolve_defense(defense)
    built = build_defense(specs)
    images = open_images(data, "test")
    spec = resolve_victim(model, weights, built, num_classes=len(images.class_names) if weights == "pretrained" else None)
    card = read_card(model, built.trained_as()) if weights == "embedded" else None
    card = card_beside(Path(weights)) if weights not in {"embedded", "pretrained"} else card
    require_labels(images, data, spec.model.num_classes, card)
    count = len(select(images, limit=min(_TEST_IMAGES, len(images)) if limit is None else limit))
    jigsaw_defense = build_defense(resolve_defense(jigsaw))
    training = None
    if card is not None:
        training = Training(defense=card.defense, dataset=card.dataset, epochs=card.epochs, recipe=dict(card.recipe))
    victim = load_victim(spec, built, generator=torch.Generator().manual_seed(seed)).to(chosen_device)
    rows = position_rows(victim) if keep_positions else None
    strange = None if unknown is None else open_images(unknown, "test")
    pixels, labels = images.as_tensors(spec.model.image_size, count)
    with cpu_threads(None, spec.model.image_size):
        found = measure_utility(
            victim,
            spec,
            built,
            specs,
            pixels,
            labels,
            dataset=images.name,
            options=MeasureOptions(
                jigsaw_defense,
                jigsaw,
                epsilon,
                seed,
                measures,
                draws,
                None if strange is None else strange.as_tensors(spec.model.image_size, count)[0],
                None if strange is None else strange.name,
            ),
            training=training,
            report=report,
        )
    path = positions = None
    if folder is not None:
        content = found.to_json().encode()
        parts = ("+".join(part.name for part in specs), Path(model).name, hashlib.sha256(content).hexdigest()[:12])
        name = "--".join(parts)
        path = folder / f"utility--{name}.json"
        atomic_write(path, content)
        if rows is not None:
            positions = folder / f"positions--{name}.safetensors"
            atomic_write(positions, save(rows))
    relative = None if compared is None else found.mean_corruption_error(compared)
    remarks = tuple(f"{flag}: {FLAG_MEANINGS[flag]}" for flag in victim.flags)
    return Evaluation(found, path, positions, remarks, relative)
