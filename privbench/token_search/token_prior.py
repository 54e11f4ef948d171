"""What tokens behind the first attention look like before anything is known of the images: a Gaussian at every place.

Its moments come from smooth random images (`smooth_precision`'s covariance over the whole image) through the public model; no
photo is needed. Given the equations of a place, what remains of it is a Gaussian in a few dozen numbers.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from privbench.closed_form.activations import Activations
from privbench.closed_form.embedding import PatchEmbedding
from privbench.closed_form.first_block import centred
from privbench.closed_form.smoothness import channel_correlation, grid_correlation
from privbench.core.patches import to_patches
from privbench.token_search.attention import FirstAttention
from privbench.token_search.places import Places

__all__ = ["Gaussian", "TokenPrior", "conditioned"]

_IMAGES = 400
"""Random images behind the moments."""
_CHUNK = 50
_FLOOR = 1e-4
"""Added to the variances of a token, whose squares are of the order of 1."""
_SEED = 0
"""Of the random images: the prior is a constant of the model, and the same for every attack on it."""


@dataclass(frozen=True)
class TokenPrior:
    """Moments of `C z'`.

    Attributes:
        mean: `[places, width]`.
        covariance: `[width, width]`, around it, over all places.
        steps: `[width, width]`, the same of differences between neighbours, their places' means subtracted.
    """

    mean: Tensor
    covariance: Tensor
    steps: Tensor

    @classmethod
    def of(cls, attention: FirstAttention, embedding: PatchEmbedding, places: Places, masked: Tensor) -> "TokenPrior":
        """Draws random images and sends them through the first attention.

        Args:
            attention: The first attention, in float32 for speed.
            embedding: Patches to tokens.
            places: Where tokens stand.
            masked: `[patches]` bool, the patches with the unknown row.
        """
        place = place_of_patches(masked)
        patches = _smooth_patches(embedding)
        rows = places.rows[place].float()
        weight = embedding.weight.float().T
        chunks = (patches[first : first + _CHUNK].float() for first in range(0, len(patches), _CHUNK))
        tokens = centred(torch.cat([attention.after(some @ weight + rows) for some in chunks]).double())
        mean = torch.stack([tokens[:, place == one].mean(dim=(0, 1)) for one in range(len(places.rows))])
        rest = tokens - mean[place]
        side = embedding.image_size // embedding.patch_size
        grid = rest.reshape(len(rest), side, side, -1)
        apart = torch.cat([(grid[:, 1:] - grid[:, :-1]).flatten(0, 2), (grid[:, :, 1:] - grid[:, :, :-1]).flatten(0, 2)])
        return cls(mean, _second_moment(rest.flatten(0, 1)), _second_moment(apart))


@dataclass(frozen=True)
class Gaussian:
    """Tokens as `centre + moves y`, y of unit variance, all of them obeying the equations of their places.

    Attributes:
        gain: `[rank, width]`, from a mean of tokens to its share in the centre.
        offset: `[places, rank]`, what the equations add to it.
        moves: `[rank, numbers]`.
    """

    gain: Tensor
    offset: Tensor
    moves: Tensor

    def centres(self, means: Tensor, places: Tensor) -> Tensor:
        """`[starts, rank]`, the most likely tokens for means `[starts, width]` at `places` `[starts]`."""
        return self.offset[places] + means @ self.gain.T


def conditioned(covariance: Tensor, activations: Activations, places: Places, numbers: int) -> Gaussian:
    """A Gaussian of tokens under the equations of each place.

    Args:
        covariance: `[width, width]`, of `C z'`.
        activations: Whose basis tokens stand in.
        places: The equations.
        numbers: Dimensions that are kept, those of largest variance.
    """
    precision = torch.linalg.inv(covariance + _FLOOR * torch.eye(len(covariance)).to(covariance))
    basis, free, fixed = activations.basis, places.free, places.fixed()
    seen = basis.T @ precision
    variances, axes = torch.linalg.eigh(torch.linalg.inv(free.T @ seen @ basis @ free))
    spread = free @ (axes * variances.clamp(min=0).sqrt())
    gain = spread @ spread.T @ seen
    return Gaussian(gain, fixed - fixed @ (gain @ basis).T, spread.flip(1)[:, :numbers])


def place_of_patches(masked: Tensor) -> Tensor:
    """`[patches]` int64, the place of each patch; those with the unknown row share the last one."""
    return torch.where(masked, (~masked).sum(), (~masked).cumsum(0) - 1)


def _smooth_patches(embedding: PatchEmbedding) -> Tensor:
    """`[images, patches, pixels]`, normalised, of random images in [0, 1] whose contrast varies."""
    generator = torch.Generator().manual_seed(_SEED)
    size = embedding.image_size
    axis = torch.linalg.cholesky(grid_correlation(size) + 1e-9 * torch.eye(size * size, dtype=torch.float64))
    channels = torch.linalg.cholesky(channel_correlation())
    noise = torch.randn(_IMAGES, 3, size * size, generator=generator, dtype=torch.float64)
    contrast = 0.5 + torch.rand(_IMAGES, 1, 1, generator=generator, dtype=torch.float64)
    images = (channels @ noise @ axis.T * contrast).reshape(_IMAGES, 3, size, size).to(embedding.weight.device)
    std, mean = embedding.std, embedding.mean
    return (to_patches((images * std + mean).clamp(0, 1).sub(mean) / std, embedding.patch_size)).flatten(2)


def _second_moment(rows: Tensor) -> Tensor:
    moment: Tensor = rows.T @ rows / len(rows)
    return moment
