"""One measure after another of what a deployed victim can do; `utility` puts them together.

A model whose layers draw at inference is measured with them on: means over draws, and attacks by the gradient that is expected
over draws. Attacks on the input come from foolbox, calibration from torchmetrics, the position study from scikit-learn (extra
`utility`).
"""

import importlib
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from privbench.core import Defense, Interval, ModelInput, UserError
from privbench.core.utility_report import MEASURED_FIELDS
from privbench.models import Victim
from privbench.scoring import POSITION_FOLDS, bootstrap_interval, pairwise_position_error, position_errors
from privbench.training.corruptions import SEVERITIES, corrupt
from privbench.training.evaluate import images_at_once
from privbench.training.reliability import (
    LEAST_IMAGES,
    area_under_response_rate,
    detection_precision,
    rms_calibration_error,
)

__all__ = ["Measure", "MeasureOptions"]

_BATCH = 250
_BINS = 15
_PGD_STEPS = 20


@dataclass(frozen=True)
class MeasureOptions:
    """What is measured.

    Attributes:
        jigsaw: The masked jigsaw: a defense whose batch hook permutes patches, and how it is written.
        jigsaw_text: The same as a user writes it.
        epsilon: Largest change of a pixel under attack, in (0, 1].
        seed: Source of masks, noise, random starts and the bootstrap.
        measures: Which of `MEASURED_FIELDS` beside accuracy and calibration, which are always there.
        draws: Of layers that are random at inference, for each image; of a model without any there is one.
        unknown: `[m, 3, height, width]` uint8, images of none of the victim's classes, for AUPR; None: not measured.
        unknown_name: What they are.
    """

    jigsaw: Defense
    jigsaw_text: str
    epsilon: float = 2 / 255
    seed: int = 0
    measures: frozenset[str] = frozenset(MEASURED_FIELDS)
    draws: int = 10
    unknown: Tensor | None = None
    unknown_name: str | None = None


class _Expectation(nn.Module):
    """The deployed model for an attacker on its input: the mean of the logits over fresh draws, in every call.

    Args:
        victim: The model.
        deployed: What it is fed: one draw of it in each call.
        draws: How many.
    """

    def __init__(self, victim: Victim, deployed: Callable[[ModelInput], ModelInput], draws: int) -> None:
        super().__init__()
        self.victim, self.deployed, self.draws = victim, deployed, draws

    def forward(self, images: Tensor) -> Tensor:
        """`[batch, classes]`."""
        fed = [self.deployed(ModelInput(images)) for _ in range(self.draws)]
        noise = {name: torch.cat([one.layer_noise[name] for one in fed]) for name in fed[0].layer_noise}
        logits: Tensor = self.victim(*fed[0].with_noise(noise).arguments)
        return logits


class Measure:
    """One victim, deployed under one defense, on one set of test images."""

    def __init__(self, victim: Victim, defense: Defense, images: Tensor, labels: Tensor, options: MeasureOptions) -> None:
        self.victim = victim
        self.defense = defense
        self.images = images
        self.labels = labels
        self.options = options
        self.device = victim.mean.device
        self.draws = options.draws if defense.draws_at_inference() else 1
        self.at_once = images_at_once(victim, defense, _BATCH)

    def share(self, values: Tensor) -> Interval:
        """The mean of one value per image, with its interval."""
        return bootstrap_interval(values.double().tolist(), seed=self.options.seed)

    def correct(self, draws: list[Tensor]) -> Tensor:
        """`[n]`, the share of draws in which an image gets its class."""
        return torch.stack([(logits.argmax(1) == self.labels).double() for logits in draws]).mean(0)

    def deployed(self, batch: ModelInput, generator: torch.Generator) -> ModelInput:
        """What the deployed model is fed."""
        return self.defense.deployed_input(self.victim, batch, generator)

    @torch.no_grad()
    def logits(
        self,
        prepared: Callable[[ModelInput, torch.Generator], ModelInput],
        images: Tensor | None = None,
        *,
        draw: int = 0,
    ) -> Tensor:
        """`[n, classes]` on the CPU, the images fed in batches of 250 (fewer where layers draw matrices) through `prepared`.

        Args:
            prepared: From a batch to what the model is fed.
            images: `[n, 3, height, width]` uint8, or in [0, 1]; None: the test images.
            draw: Number of the draw.
        """
        images = self.images if images is None else images
        generator = torch.Generator().manual_seed(self.options.seed + draw)
        found = []
        with self._seeded():
            for start in range(0, len(images), self.at_once):
                fed = prepared(ModelInput(_pixels(images[start : start + self.at_once], self.device)), generator)
                found.append(self.victim(*fed.arguments).float().cpu())
        return torch.cat(found)

    def draws_of_logits(self, images: Tensor | None = None) -> list[Tensor]:
        """`[n, classes]` of the deployed model, once for each draw."""
        return [self.logits(self.deployed, images, draw=draw) for draw in range(self.draws)]

    def defended(self) -> list[Tensor]:
        """The same behind the defense's batch hook."""

        def prepared(batch: ModelInput, generator: torch.Generator) -> ModelInput:
            return self.defense.prepare_batch(self.victim, batch, generator).model_input

        return [self.logits(prepared, draw=draw) for draw in range(self.draws)]

    def jigsaw(self) -> tuple[dict[str, Interval], dict[str, str]]:
        """Masked-jigsaw accuracy, consistency and difference of features; or the reason why there are none."""
        names = ("jigsaw_accuracy", "consistency", "difference_norm")
        if self.victim.patch_size is None:
            return {}, dict.fromkeys(names, f"{type(self.victim.network).__name__} has no patches")
        jigsaws = torch.Generator().manual_seed(self.options.seed)

        def prepared(batch: ModelInput, generator: torch.Generator) -> ModelInput:
            # Draws of the layers are those of the images in their own order: what differs is the jigsaw alone.
            fed = self.options.jigsaw.prepare_batch(self.victim, batch, jigsaws).model_input
            moved = fed if self.victim.has_unknown_position else ModelInput(fed.images)
            return moved.with_noise(self.deployed(batch, generator).layer_noise)

        classifier = self.victim.classifier_names()[0].removesuffix(".weight")
        with _recorded(self.victim.get_submodule(classifier)) as features:
            plain = self.logits(self.deployed)
            before = torch.cat(features)
            features.clear()
            jigsawed = self.logits(prepared)
            after = torch.cat(features)
        return {
            "jigsaw_accuracy": self.share(jigsawed.argmax(1) == self.labels),
            "consistency": self.share(jigsawed.argmax(1) == plain.argmax(1)),
            "difference_norm": self.share((after - before).norm(dim=1)),
        }, {}

    def calibration(self, draws: list[Tensor]) -> tuple[dict[str, Any], dict[str, str]]:
        """Expected and RMS calibration error and AURRA, each the mean over draws; and what is missing, with the reason."""
        library = _library("torchmetrics.functional.classification").multiclass_calibration_error
        expected, squared, answered = [], [], []
        for logits in draws:
            confidence, predicted = logits.softmax(1).max(dim=1)
            right = predicted == self.labels
            error = library(logits.softmax(1), self.labels, num_classes=logits.shape[1], n_bins=_BINS, norm="l1")
            expected.append(float(error))
            squared.append(rms_calibration_error(confidence, right))
            answered.append(area_under_response_rate(confidence, right))
        found = {
            "calibration_error": fmean(expected),
            "calibration_interval": bootstrap_interval(expected, seed=self.options.seed) if len(draws) > 1 else None,
            "aurra": fmean(answered),
        }
        if len(self.labels) < LEAST_IMAGES:
            return found, {
                "rms_calibration_error": f"{len(self.labels)} images make no two bins of 100; --limit {LEAST_IMAGES}"
            }
        return found | {"rms_calibration_error": fmean(squared)}, {}

    def detection_precision(self, known: list[Tensor], unknown: Tensor) -> float:
        """AUPR of images of no class, the mean over draws."""
        pairs = zip(known, self.draws_of_logits(unknown), strict=True)
        return fmean(detection_precision(*(one.softmax(1).amax(dim=1) for one in pair)) for pair in pairs)

    def under_attack(self) -> tuple[Tensor, Tensor]:
        """For each image, in what share of the draws it keeps its class under FGSM and under PGD, `[n]`."""
        foolbox = _library("foolbox")
        generator = torch.Generator().manual_seed(self.options.seed)
        expectation = _Expectation(self.victim, lambda batch: self.deployed(batch, generator), self.draws)
        model = foolbox.PyTorchModel(expectation.eval(), bounds=(0, 1), device=self.device)
        attacks = (
            foolbox.attacks.LinfFastGradientAttack(random_start=False),
            foolbox.attacks.LinfProjectedGradientDescentAttack(steps=_PGD_STEPS, rel_stepsize=2.5 / _PGD_STEPS),
        )
        attacked: list[list[Tensor]] = [[], []]
        with self._seeded():
            at_once = images_at_once(self.victim, self.defense, _BATCH, self.draws)
            for start in range(0, len(self.images), at_once):
                batch = _pixels(self.images[start : start + at_once], self.device)
                labels = self.labels[start : start + at_once].to(self.device)
                for attack, results in zip(attacks, attacked, strict=True):
                    results.append(attack(model, batch, labels, epsilons=self.options.epsilon)[1].cpu())
        # Draws that the attack did not see.
        fgsm, pgd = (self.correct(self.draws_of_logits(torch.cat(images))) for images in attacked)
        return fgsm, pgd

    def corrupted(self, name: str) -> tuple[float, ...]:
        """Top-1 at each severity."""
        pixels = self.images.permute(0, 2, 3, 1).numpy() / 255
        rows = []
        for severity in SEVERITIES:
            random = np.random.default_rng([self.options.seed, severity])
            changed = np.stack([corrupt(image, name, severity, random) for image in pixels])
            tensors = torch.from_numpy(changed).permute(0, 3, 1, 2).float()
            rows.append(float(self.correct(self.draws_of_logits(tensors)).mean()))
        return tuple(rows)

    def positions(self) -> tuple[dict[str, float], dict[str, str]]:
        """How well position rows tell their places, and how far two are apart; or the reason why that cannot be asked."""
        names = MEASURED_FIELDS["positions"]
        positions, grid = self.victim.patch_size and self.victim.parts().position, self.victim.grid
        if not positions or grid is None:
            return {}, dict.fromkeys(names, f"{type(self.victim.network).__name__} has no learned position embedding")
        rows, seed = self.victim.patch_positions().detach().double().cpu().numpy(), self.options.seed
        if len(rows) < 2 * POSITION_FOLDS:
            return {}, dict.fromkeys(names, f"{len(rows)} patches are too few for five folds")
        found = (
            float(position_errors(rows, grid, seed=seed).mean()),
            float(position_errors(rows, grid, seed=seed, along="sequence").mean()),
            pairwise_position_error(rows, grid, seed=seed),
            pairwise_position_error(rows, grid, seed=seed, along="sequence"),
        )
        return dict(zip(names, found, strict=True)), {}

    @contextmanager
    def _seeded(self) -> Iterator[None]:
        """The process's random state, seeded within and left as found: libraries and layers draw from it."""
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(self.options.seed)
            yield


def _pixels(images: Tensor, device: torch.device) -> Tensor:
    """In [0, 1] on a device, of images in whole levels or in [0, 1] already."""
    return images.to(device) if images.is_floating_point() else images.to(device, torch.float32) / 255


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
        raise UserError(
            f"measuring utility needs {name.partition('.')[0]} ({error}); pip install 'privbench[utility]'"
        ) from None
