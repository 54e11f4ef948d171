"""The price of a defense: what its victim can still do, on test images, measured as the papers of this field measure it.

Attacks on the input come from foolbox, calibration from torchmetrics, the position study from scikit-learn (extra `price`).
"""

import importlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from privbench.core import ComponentSpec, Defense, Interval, ModelInput, Price, Training, UserError, VictimSpec
from privbench.models import Victim
from privbench.scoring import POSITION_FOLDS, bootstrap_interval, position_errors
from privbench.training.corruptions import CORRUPTIONS, SEVERITIES, corrupt

__all__ = ["MEASURES", "MeasureOptions", "measure_price"]

_BATCH = 250
_BINS = 15
_PGD_STEPS = 20
_JIGSAWS = 20
"""Draws in which a jigsaw must move or mask a patch at least once."""

MEASURES: Mapping[str, tuple[str, ...]] = {
    "jigsaw": ("jigsaw_accuracy", "consistency", "difference_norm"),
    "attacks": ("fgsm_accuracy", "pgd_accuracy"),
    "corruptions": ("corrupted_accuracy",),
    "positions": ("position_error",),
}
"""What is measured on request, with the fields of a price that it gives."""


@dataclass(frozen=True)
class MeasureOptions:
    """What is measured.

    Attributes:
        jigsaw: The masked jigsaw: a defense whose batch hook permutes patches, and how it is written.
        jigsaw_text: The same as a user writes it.
        epsilon: Largest change of a pixel under attack, in (0, 1].
        seed: Source of masks, noise, random starts and the bootstrap.
        measures: Which of `MEASURES` beside accuracy and calibration, which are always there.
    """

    jigsaw: Defense
    jigsaw_text: str
    epsilon: float = 2 / 255
    seed: int = 0
    measures: frozenset[str] = frozenset(MEASURES)


def measure_price(
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
) -> Price:
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
            extra `price` is not installed.
    """
    _require_finite(victim)
    for one in (defense, options.jigsaw):
        _require_enough(one, len(images))
    _require_jigsaw(victim, images, options)
    measure = _Measure(victim, images, labels, options)
    wanted = options.measures
    found: dict[str, Any] = {}
    missing = {
        field: f"not asked for; --measure {name}" for name, fields in MEASURES.items() if name not in wanted for field in fields
    }
    was_training = victim.training
    victim.eval()
    try:
        report("accuracy")
        plain = measure.logits(lambda batch, _: batch)
        report("accuracy under the defense")
        defended = measure.logits(lambda batch, generator: defense.prepare_batch(victim, batch, generator).model_input)
        if "jigsaw" in wanted:
            report("masked jigsaw")
            values, reasons = measure.jigsaw()
            found, missing = found | values, missing | reasons
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
            found["position_error"], no_positions = measure.position_error()
            missing |= no_positions
    finally:
        victim.train(was_training)
    return Price(
        victim=spec,
        training=training,
        defense=defense_specs,
        dataset=dataset,
        images=len(images),
        seed=options.seed,
        accuracy=measure.share(plain.argmax(1) == labels),
        defended_accuracy=measure.share(defended.argmax(1) == labels),
        jigsaw=options.jigsaw_text,
        calibration_error=measure.calibration_error(plain),
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
        if protected.model_input.label_mixing is None and any(_is_moved(*choice) for choice in protected.choices.items()):
            return
    raise UserError(
        f"--jigsaw {options.jigsaw_text} leaves every patch in its place or mixes images; accepted: a defense that permutes "
        "patches, such as mjp:mask_ratio=0.5 or naive-shuffle"
    )


def _is_moved(name: str, choice: Tensor) -> bool:
    """Whether a choice of a defense (`ProtectedInput`) is an order other than that of the image, or a mask with patches."""
    if name.endswith(".mask"):
        return bool(choice.any())
    return name.endswith(".order") and not torch.equal(choice.cpu(), torch.arange(len(choice)))


class _Measure:
    """One victim on one set of test images."""

    def __init__(self, victim: Victim, images: Tensor, labels: Tensor, options: MeasureOptions) -> None:
        self.victim = victim
        self.images = images
        self.labels = labels
        self.options = options
        self.device = victim.mean.device

    def share(self, values: Tensor) -> Interval:
        """The mean of one value per image, with its interval."""
        return bootstrap_interval(values.double().tolist(), seed=self.options.seed)

    @torch.no_grad()
    def logits(self, feed: Callable[[ModelInput, torch.Generator], ModelInput]) -> Tensor:
        """`[n, classes]` on the CPU, the images fed in batches of 250 through `feed`."""
        generator = torch.Generator().manual_seed(self.options.seed)
        found = []
        with self._seeded():
            for start in range(0, len(self.images), _BATCH):
                batch = ModelInput(self.images[start : start + _BATCH].to(self.device, torch.float32) / 255)
                fed = feed(batch, generator)
                found.append(self.victim(*fed.arguments).float().cpu())
        return torch.cat(found)

    def jigsaw(self) -> tuple[dict[str, Interval], dict[str, str]]:
        """Masked-jigsaw accuracy, consistency and difference of features; or the reason why there are none."""
        names = ("jigsaw_accuracy", "consistency", "difference_norm")
        if self.victim.patch_size is None:
            return {}, dict.fromkeys(names, f"{type(self.victim.network).__name__} has no patches")

        def feed(batch: ModelInput, generator: torch.Generator) -> ModelInput:
            fed = self.options.jigsaw.prepare_batch(self.victim, batch, generator).model_input
            return fed if self.victim.has_unknown_position else ModelInput(fed.images)

        classifier = self.victim.classifier_names()[0].removesuffix(".weight")
        with _recorded(self.victim.get_submodule(classifier)) as features:
            plain = self.logits(lambda batch, _: batch)
            before = torch.cat(features)
            features.clear()
            jigsawed = self.logits(feed)
            after = torch.cat(features)
        return {
            "jigsaw_accuracy": self.share(jigsawed.argmax(1) == self.labels),
            "consistency": self.share(jigsawed.argmax(1) == plain.argmax(1)),
            "difference_norm": self.share((after - before).norm(dim=1)),
        }, {}

    def calibration_error(self, logits: Tensor) -> float:
        """Expected calibration error."""
        calibration = _library("torchmetrics.functional.classification").multiclass_calibration_error
        error = calibration(logits.softmax(1), self.labels, num_classes=logits.shape[1], n_bins=_BINS, norm="l1")
        return float(error)

    def under_attack(self) -> tuple[Tensor, Tensor]:
        """For each image, whether it keeps its class under FGSM and under PGD, `[n]` bool."""
        foolbox = _library("foolbox")
        model = foolbox.PyTorchModel(self.victim, bounds=(0, 1), device=self.device)
        attacks = (
            foolbox.attacks.LinfFastGradientAttack(random_start=False),
            foolbox.attacks.LinfProjectedGradientDescentAttack(steps=_PGD_STEPS, rel_stepsize=2.5 / _PGD_STEPS),
        )
        kept: list[list[Tensor]] = [[], []]
        with self._seeded():
            for start in range(0, len(self.images), _BATCH):
                batch = self.images[start : start + _BATCH].to(self.device, torch.float32) / 255
                labels = self.labels[start : start + _BATCH].to(self.device)
                for attack, results in zip(attacks, kept, strict=True):
                    results.append(~attack(model, batch, labels, epsilons=self.options.epsilon)[2].cpu())
        return torch.cat(kept[0]), torch.cat(kept[1])

    def corrupted(self, name: str) -> tuple[float, ...]:
        """Top-1 at each severity."""
        pixels = self.images.permute(0, 2, 3, 1).numpy() / 255
        rows = []
        for severity in SEVERITIES:
            random = np.random.default_rng([self.options.seed, severity])
            changed = np.stack([corrupt(image, name, severity, random) for image in pixels])
            tensors = torch.from_numpy(changed).permute(0, 3, 1, 2).float()
            hits = 0
            with torch.no_grad(), self._seeded():
                for start in range(0, len(tensors), _BATCH):
                    predicted = self.victim(tensors[start : start + _BATCH].to(self.device)).argmax(1).cpu()
                    hits += int((predicted == self.labels[start : start + _BATCH]).sum())
            rows.append(hits / len(tensors))
        return tuple(rows)

    def position_error(self) -> tuple[float | None, Mapping[str, str]]:
        """How well a position row tells its place; or the reason why it cannot be asked."""
        positions, grid = self.victim.patch_size and self.victim.parts().position, self.victim.grid
        if not positions or grid is None:
            return None, {"position_error": f"{type(self.victim.network).__name__} has no learned position embedding"}
        rows = self.victim.patch_positions().detach().double().cpu().numpy()
        if len(rows) < 2 * POSITION_FOLDS:
            return None, {"position_error": f"{len(rows)} patches are too few for five folds"}
        return float(position_errors(rows, grid, seed=self.options.seed).mean()), {}

    @contextmanager
    def _seeded(self) -> Iterator[None]:
        """The process's random state, seeded within and left as found: libraries and layers draw from it."""
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(self.options.seed)
            yield


@contextmanager
def _recorded(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Keeps what a layer reads: the features `[batch, width]` before the classifier, on the CPU."""
    features: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, given: features.append(given[0].float().cpu()))
    try:
        yield features
    finally:
        hook.remove()


def _library(name: str) -> Any:
    try:
        with warnings.catch_warnings():
            # foolbox 3.3 imports from a namespace that SciPy 2 will drop; the extra keeps to SciPy 1.
            warnings.simplefilter("ignore", DeprecationWarning)
            return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"measuring a price needs {name.partition('.')[0]} ({error}); pip install 'privbench[price]'") from None
