"""What `adjoint-matching` does by itself, by the size of the input and where its adjoint comes from.

The priors are means, so that a weight means the same at every size; but a pixel of a small image differs more from its
neighbours than a pixel of a photo, and each of its patches has more equations to its pixels.
"""

from dataclasses import dataclass

from privbench.adjoint import SMALL
from privbench.inversion import Chroma, Constant, Decay, PatchBorders, PriorTerm, SquaredNorm, WeightedVariation

__all__ = ["TUNED", "VARIATION", "AdjointSettings", "settings_for"]

TUNED = (32, 224)
"""The sizes at which settings were chosen."""
VARIATION = "variation-weights"
"""Name of the weight of each pixel's variation in the context."""


@dataclass(frozen=True)
class AdjointSettings:
    """Settings that are not the same everywhere.

    Attributes:
        steps: Optimisation steps of each trial.
        learning_rate: Adam's, pixels in [0, 1].
        total_variation: Weight at the start.
        total_variation_end: Weight at the end.
        patch_prior: Weight of the differences across patch borders.
        chroma: Weight of the channels' distance from their mean.
        squared_norm: Weight of the distance from mid-grey.
        adjoint_speed: What the adjoint's learning rate is multiplied by.
        emphasis: What the emphasis of the patch embedding is multiplied by.
    """

    steps: int
    learning_rate: float
    total_variation: float = 0.8
    total_variation_end: float = 0.03
    patch_prior: float = 1.0
    chroma: float = 0.3
    squared_norm: float = 0.1
    adjoint_speed: float = 1.0
    emphasis: float = 1.0

    def priors(self, patch_size: int | None) -> list[PriorTerm]:
        """The image priors by these weights.

        Args:
            patch_size: In pixels; None for a model without patches.
        """
        variation = Decay(self.total_variation, self.total_variation_end)
        terms = [
            PriorTerm("variation", variation, WeightedVariation(VARIATION)),
            PriorTerm("norm", Constant(self.squared_norm), SquaredNorm()),
            PriorTerm("chroma", Constant(self.chroma), Chroma()),
        ]
        if patch_size:
            terms.append(PriorTerm("patch", Constant(self.patch_prior), PatchBorders(patch_size, "mean")))
        return terms


def settings_for(image_size: int, *, free: bool, images: int = 1) -> AdjointSettings:
    """The settings for images of `image_size` x `image_size` pixels.

    Args:
        image_size: Height and width in pixels.
        free: Whether the adjoint is a variable.
        images: Of the batch.
    """
    if not free:
        return AdjointSettings(700, 0.015)
    if image_size > SMALL:
        return AdjointSettings(1200, 0.05) if images == 1 else AdjointSettings(2000, 0.05, 1.5, 0.06, chroma=0.5)
    priors = {"patch_prior": 0.1, "chroma": 0.01, "squared_norm": 0.003}
    return AdjointSettings(1250, 0.05, 0.01, 0.0005, **priors, adjoint_speed=4.0, emphasis=3.0)
