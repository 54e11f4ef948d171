"""The utility of a victim under its defense, on test images, measured as the papers of this field measure it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from privbench.core import ComponentSpec, Defense, InferredChoices, ModelInput, Training, UserError, UtilityReport, VictimSpec
from privbench.core.utility_report import MEASURED_FIELDS, not_asked_for
from privbench.models import Victim
from privbench.training.corruptions import CORRUPTIONS
from privbench.training.measure import Measure, MeasureOptions

__all__ = ["measure_utility"]

_JIGSAWS = 20
"""Draws in which a jigsaw must move or mask a patch at least once."""


def measure_utility(
    victim: Victim,
    spec: VictimSpec,
    defense: Defense,
    defense_specs: tuple[ComponentSpec, ...],
    images: Tensor,
    labels: Tensor,
    *,
    dataset: str,
    options: MeasureOptions,
    training: Training | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> UtilityReport:
    """Measures what a victim can do.

    Args:
        victim: With its weights; its mode is left as found.
        spec: What it was loaded from.
        defense: The defense that it lives under.
        defense_specs: The same, resolved.
        images: `[n, 3, height, width]` uint8, test images.
        labels: `[n]` int64.
        dataset: Name of the data.
        options: What to measure.
        training: How the weights came to be, where that is known.
        report: Told what is measured next.

    Raises:
        UserError: The victim's weights are not finite, the images are too few for a defense, the jigsaw moves no patch, or the
            extra `utility` is not installed.
    """
    _require_finite(victim)
    for one in (defense, options.jigsaw):
        _require_enough(one, len(images))
    _require_jigsaw(victim, images, options)
    measure = Measure(victim, defense, images, labels, options)
    wanted = options.measures
    found: dict[str, Any] = {}
    missing = {field: not_asked_for(name) for name, fields in MEASURED_FIELDS.items() if name not in wanted for field in fields}
    was_training = victim.training
    victim.eval()
    try:
        report("accuracy")
        deployed = measure.draws_of_logits()
        calibration, reasons = measure.calibration(deployed)
        found, missing = found | calibration, missing | reasons
        report("accuracy under the defense")
        defended = measure.defended()
        if options.unknown is not None:
            report("images of no class")
            found |= {"aupr": measure.detection_precision(deployed, options.unknown), "unknown": options.unknown_name}
        if "jigsaw" in wanted:
            report("masked jigsaw")
            shares, reasons = measure.jigsaw()
            found, missing = found | shares, missing | reasons
        if "attacks" in wanted:
            report("attacks on the input")
            fgsm, pgd = measure.under_attack()
            found |= {"fgsm_accuracy": measure.share(fgsm), "pgd_accuracy": measure.share(pgd)}
        if "corruptions" in wanted:
            found["corrupted_accuracy"] = {}
            for name in CORRUPTIONS:
                report(f"corruption {name}")
                found["corrupted_accuracy"][name] = measure.corrupted(name)
        if "positions" in wanted:
            errors, reasons = measure.positions()
            found, missing = found | errors, missing | reasons
    finally:
        victim.train(was_training)
    return UtilityReport(
        victim=spec.without_paths(),
        training=training,
        defense=defense_specs,
        dataset=dataset,
        images=len(images),
        seed=options.seed,
        accuracy=measure.share(measure.correct(deployed)),
        defended_accuracy=measure.share(measure.correct(defended)),
        jigsaw=options.jigsaw_text,
        draws=len(deployed),
        epsilon=options.epsilon,
        **found,
        unavailable=missing,
        torch=str(torch.__version__),
    )


def _require_finite(victim: Victim) -> None:
    broken = next((name for name, value in victim.state_dict().items() if not torch.isfinite(value).all()), None)
    if broken:
        raise UserError(f"the weight {broken} of the victim is not finite; check its weights file, or train it again")


def _require_enough(defense: Defense, images: int) -> None:
    """`Defense.require_batch` in the words of test images: a batch here is as many of them as there are."""
    needed = defense.smallest_batch()
    if images < needed:
        raise UserError(
            f"a defense that mixes the images of a batch needs {needed} or more, and there are {images}; "
            "raise --limit, or give more images"
        )


def _require_jigsaw(victim: Victim, images: Tensor, options: MeasureOptions) -> None:
    """Whether what stands for the jigsaw can permute or mask patches, by trying it; a victim without patches has none."""
    if victim.patch_size is None:
        return
    batch = ModelInput(images[: options.jigsaw.smallest_batch()].to(victim.mean.device, torch.float32) / 255)
    for seed in range(_JIGSAWS):
        try:
            protected = options.jigsaw.prepare_batch(victim, batch, torch.Generator().manual_seed(seed))
        except RuntimeError:
            # A defense that adds layers to a model finds none of them here.
            break
        if protected.model_input.label_mixing is None and _is_moved(options.jigsaw.scored_choices(protected.choices)):
            return
    raise UserError(
        f"--jigsaw {options.jigsaw_text} leaves every patch in its place or mixes images; accepted: a defense that permutes "
        "patches, such as mjp:mask_ratio=0.5 or naive-shuffle"
    )


def _is_moved(chosen: InferredChoices) -> bool:
    """Whether a defense's choices are an order other than that of the image, or a mask with patches."""
    if chosen.mask is not None and bool(chosen.mask.any()):
        return True
    return chosen.order is not None and not torch.equal(chosen.order.cpu(), torch.arange(len(chosen.order)))
