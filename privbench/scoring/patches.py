"""Scores that a shuffle cannot lower: the reconstruction's patches are first put where they fit the original best.

A defense that permutes patches hides the order, not the content; a pixel-aligned score would call a perfect but shuffled
recovery private. The best assignment uses the truth, so it can only flatter the attacker: noise gains some too, which is why
these columns are read beside the calibration rows and never instead of the aligned scores.
"""

import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from torch import Tensor

from privbench.core.errors import UserError
from privbench.core.patches import rearrange, to_patches
from privbench.scoring.factory import Compute, MetricFactory, MetricUnavailable, SuiteOptions
from privbench.scoring.metrics import PSNR, PSNR_CAP, SSIM, psnr, ssim, ssim_for

__all__ = ["PSNR_PATCH", "SSIM_PATCH", "best_placement"]


def best_placement(reconstruction: Tensor, original: Tensor, patch_size: int) -> Tensor:
    """Moves each patch of a reconstruction to where it fits the original best.

    Every patch is used once, none is turned or changed; the assignment minimises the total squared error (Hungarian method).

    Args:
        reconstruction: `[batch, 3, height, width]`.
        original: The same shape.
        patch_size: Side of a patch in pixels; height and width are multiples of it.

    Returns:
        `[batch, 3, height, width]`, the rearranged reconstruction, of the reconstruction's dtype and device.

    Raises:
        UserError: The image cannot be cut into such patches.
    """
    height, width = original.shape[-2:]
    if not _divides(patch_size, height, width):
        raise UserError(_uncut(f"{height}x{width}", patch_size))
    pieces, places = to_patches(reconstruction, patch_size), to_patches(original, patch_size)
    orders = [_order(piece, place) for piece, place in zip(pieces, places, strict=True)]
    images = zip(torch.split(reconstruction, 1), orders, strict=True)
    return torch.cat([rearrange(image, order, patch_size) for image, order in images])


def _order(pieces: Tensor, places: Tensor) -> Tensor:
    rows = [patches.detach().cpu().double().flatten(1).numpy() for patches in (places, pieces)]
    # Differences, not expanded products: nearly exact patches must not be told apart by rounding.
    cost = cdist(rows[0], rows[1], "sqeuclidean")
    return torch.as_tensor(linear_sum_assignment(cost)[1], dtype=torch.int64, device=pieces.device)


def _divides(patch_size: int, height: int, width: int) -> bool:
    return patch_size > 0 and height % patch_size == 0 and width % patch_size == 0


def _uncut(size: str, patch_size: int) -> str:
    return f"images of {size} pixels in patches of {patch_size}; accepted: a patch size that divides height and width"


def _required_patch_size(options: SuiteOptions) -> int:
    size, patch_size = options.image_size, options.patch_size
    if patch_size is None:
        raise MetricUnavailable("the victim does not cut the image into patches; choose a vision transformer to get this score")
    if size is not None and not _divides(patch_size, size, size):
        raise MetricUnavailable(_uncut(f"{size}x{size}", patch_size))
    return patch_size


def _after_placement(score: Compute, patch_size: int) -> Compute:
    def compute(reconstruction: Tensor, original: Tensor) -> Tensor:
        return score(best_placement(reconstruction, original, patch_size), original)

    return compute


def _psnr_patch(options: SuiteOptions) -> Compute:
    return _after_placement(psnr, _required_patch_size(options))


def _ssim_patch(options: SuiteOptions) -> Compute:
    ssim_for(options)
    return _after_placement(ssim, _required_patch_size(options))


PSNR_PATCH = MetricFactory(
    name="psnr_patch",
    build=_psnr_patch,
    higher_is_leakier=True,
    worst=PSNR.worst,
    best=PSNR_CAP,
    unit="dB",
    summary=(
        "PSNR after the best rearrangement of the victim's patches (Hungarian on squared error); never below psnr, from 0 to "
        "150, where exact patches in any order are capped."
    ),
)

SSIM_PATCH = MetricFactory(
    name="ssim_patch",
    build=_ssim_patch,
    higher_is_leakier=True,
    worst=SSIM.worst,
    best=SSIM.best,
    summary=(
        "SSIM after the same rearrangement as psnr_patch (chosen by squared error, so it can lie below ssim); from -1 to 1, "
        "1 for exact patches in any order."
    ),
)
