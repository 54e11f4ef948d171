"""What images look like: a Laplace prior on the differences of neighbouring pixels, in decorrelated colours.

Its negative logarithm is the total variation (Rudin, Osher and Fatemi, 1992). It is minimised by reweighted quadratics, so
that a solver meets only linear systems.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from privbench.core.patches import from_patches, to_patches

__all__ = ["SCALES", "Variation", "colours"]

SCALES = (0.5, 0.06, 0.04)
"""Mean absolute difference of neighbours in grey and the two colour differences, in normalised pixels.

Measured: 0.32, 0.03 and 0.02 on photos of 224 pixels, 0.47, 0.08 and 0.04 on CIFAR-10's training images. Larger scales weigh
the equations more: by half as much is better under noise and pruning and worse beside masked patches (0.3 dB each)."""
_KINK = 0.2
"""Below this share of a scale a difference counts as none, which rounds the kink of the absolute value off."""


def colours() -> Tensor:
    """`[3, 3]` float64, orthonormal rows: grey, red against blue, green against both."""
    rows = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [1.0, -2.0, 1.0]], dtype=torch.float64)
    unit: Tensor = rows / rows.norm(dim=1, keepdim=True)
    return unit


@dataclass(frozen=True)
class Variation:
    """A quadratic that touches the total variation from above where it was made.

    Attributes:
        side: Rows and columns of patches of the image; None: each patch is a picture of its own, their order being unknown.
        patch_size: Side of a patch in pixels.
        down: Weights of the differences to the pixel below, `[images, 3, height - 1, width]`, or 3 numbers for all places.
        right: The same to the right.
    """

    side: int | None
    patch_size: int
    down: Tensor
    right: Tensor

    @classmethod
    def everywhere(cls, side: int | None, patch_size: int) -> "Variation":
        """The same weights everywhere, as where all differences are of the expected size."""
        weights = 1 / torch.tensor(SCALES, dtype=torch.float64).square().view(3, 1, 1)
        return cls(side, patch_size, weights, weights)

    def at(self, patches: Tensor) -> "Variation":
        """The quadratic for these patches `[patches, pixels]`."""
        image = self._image(patches)
        scales = torch.tensor(SCALES, dtype=torch.float64).view(3, 1, 1)
        weights = (1 / (scales * (change.square() + (_KINK * scales).square()).sqrt()) for change in _changes(image))
        return Variation(self.side, self.patch_size, *weights)

    def curvature(self, patches: Tensor) -> Tensor:
        """The quadratic's matrix times the patches: `[patches, pixels]` to the same shape."""
        image = self._image(patches)
        down, right = _changes(image)
        slope = torch.zeros_like(image)
        down, right = self.down * down, self.right * right
        slope[..., 1:, :] += down
        slope[..., :-1, :] -= down
        slope[..., 1:] += right
        slope[..., :-1] -= right
        return self._patches(slope)

    def total(self, patches: Tensor) -> Tensor:
        """A scalar: the prior's negative logarithm, the total variation in units of `SCALES` with its kink rounded off."""
        scales = torch.tensor(SCALES, dtype=torch.float64).view(3, 1, 1)
        changes = ((change.square() + (_KINK * scales).square()).sqrt() / scales for change in _changes(self._image(patches)))
        return sum((change.sum() for change in changes), start=patches.new_zeros(()))

    def mean_curvature(self) -> Tensor:
        """`[3]`, by colour, the mean of the matrix's diagonal."""
        return 2 * (self.down.mean(dim=(-2, -1)) + self.right.mean(dim=(-2, -1))).reshape(-1, 3).mean(dim=0)

    def _image(self, patches: Tensor) -> Tensor:
        cut = patches.reshape(1, -1, 3, self.patch_size, self.patch_size)
        pictures = cut[0] if self.side is None else from_patches(cut, *[self.side * self.patch_size] * 2)
        return torch.einsum("cd,ndhw->nchw", colours(), pictures)

    def _patches(self, image: Tensor) -> Tensor:
        pictures = torch.einsum("cd,nchw->ndhw", colours(), image)
        cut = pictures if self.side is None else to_patches(pictures, self.patch_size)[0]
        return cut.reshape(len(cut), -1)


def _changes(image: Tensor) -> tuple[Tensor, Tensor]:
    return image[..., 1:, :] - image[..., :-1, :], image[..., 1:] - image[..., :-1]
