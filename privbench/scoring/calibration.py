"""Pictures that nobody reconstructed, to say what a score means: noise, another photo, a poor JPEG."""

from collections.abc import Mapping
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from privbench.core.patches import from_patches, to_patches
from privbench.scoring.pixels import from_uint8, to_uint8

__all__ = ["CALIBRATION_ROWS", "calibration_pictures"]

CALIBRATION_ROWS: Mapping[str, str] = {
    "uniform-noise": "every pixel drawn uniformly from [0, 1]",
    "mean-image": "the mean of other images of the data set",
    "same-class": "another image with the same label",
    "shuffled-patches": "the truth with its patches in random order",
    "jpeg-10": "the truth as a JPEG of quality 10",
}
"""Names of the pictures and what they are, from what shows nothing of the image to what shows most; aligned scores of the
fourth are low by construction."""

_QUALITY = 10


def calibration_pictures(
    truth: Tensor, *, mean: Tensor, same_class: Tensor, patch_size: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """The pictures of all rows, in place of a reconstruction of each original.

    Args:
        truth: `[n, 3, height, width]` in [0, 1].
        mean: `[3, height, width]`, the mean of other images.
        same_class: As `truth`: another image of each one's class.
        patch_size: Side of the patches that are shuffled, in pixels.
        generator: Draws noise and orders.

    Returns:
        Row name to `[n, 3, height, width]` in [0, 1].
    """
    patches = to_patches(truth, patch_size)
    orders = torch.stack([torch.randperm(patches.shape[1], generator=generator) for _ in truth])
    shuffled = patches[torch.arange(len(truth))[:, None], orders]
    return {
        "uniform-noise": torch.rand(truth.shape, generator=generator),
        "mean-image": mean.expand_as(truth).clone(),
        "same-class": same_class,
        "shuffled-patches": from_patches(shuffled, truth.shape[-2], truth.shape[-1]),
        "jpeg-10": torch.stack([_jpeg(image) for image in truth]),
    }


def _jpeg(image: Tensor) -> Tensor:
    file = BytesIO()
    Image.fromarray(to_uint8(image[None])[0].permute(1, 2, 0).numpy()).save(file, "JPEG", quality=_QUALITY)
    with Image.open(file) as picture:
        return from_uint8(torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1))
