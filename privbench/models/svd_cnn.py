"""Small residual networks for 32x32 with an SVD meta-layer: the victims of orthogonal SVD conditioning."""

from typing import Literal, cast

from torch import Tensor, nn

from privbench.models.prior_cnn import Residual, convolution
from privbench.models.svd_layers import DecorrelatedBatchNorm, GlobalCovariancePooling

__all__ = ["SvdCnn"]

_POOLED = 24
"""Channels whose covariance is pooled: fewer than the 64 places, so that it has full rank."""


class SvdCnn(nn.Module):
    """Residual CNN of widths 16, 32, 64 with a meta-layer.

    Args:
        num_classes: Number of classes.
        meta: `decorrelated`: ZCA behind the first convolution, in place of its batch normalisation; `covariance`: global
            covariance pooling of a 1x1 convolution in front of the classifier, in place of average pooling.
    """

    def __init__(self, num_classes: int, meta: Literal["decorrelated", "covariance"]) -> None:
        super().__init__()
        self.meta = meta
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = DecorrelatedBatchNorm(16) if meta == "decorrelated" else nn.BatchNorm2d(16)
        self.features = nn.Sequential(
            nn.ReLU(), convolution(16, 32, stride=2), Residual(32), convolution(32, 64, stride=2), Residual(64)
        )
        if meta == "covariance":
            self.reduce = nn.Conv2d(64, _POOLED, 1, bias=False)
            self.pool = GlobalCovariancePooling(_POOLED)
        self.head = nn.Linear(_POOLED * (_POOLED + 1) // 2 if meta == "covariance" else 64, num_classes)

    @property
    def pre_svd(self) -> nn.Conv2d:
        """The layer in front of the meta-layer, which the authors condition."""
        return self.stem if self.meta == "decorrelated" else self.reduce

    @property
    def meta_layer(self) -> DecorrelatedBatchNorm | GlobalCovariancePooling:
        """The layer with an SVD in it."""
        return cast(DecorrelatedBatchNorm, self.norm) if self.meta == "decorrelated" else self.pool

    def forward(self, images: Tensor) -> Tensor:
        """Classifies normalised images `[batch, 3, height, width]`; returns `[batch, classes]` logits."""
        features = self.features(self.norm(self.stem(images)))
        pooled = self.pool(self.reduce(features)) if self.meta == "covariance" else features.mean(dim=(2, 3))
        return cast(Tensor, self.head(pooled))
