"""The embedded convolutional network whose batch-normalisation statistics serve as image prior (GradViT's R_image).

Small on purpose: the prior is evaluated at every step of the second half of an attack.
"""

from typing import cast

from torch import Tensor, nn

__all__ = ["PriorCnn"]


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_convolution(width, width), _convolution(width, width))

    def forward(self, features: Tensor) -> Tensor:
        return cast(Tensor, features + self.body(features))


class PriorCnn(nn.Module):
    """Residual CNN for 32x32 images: widths 32, 64, 128, eight convolutions, batch normalisation after each.

    Args:
        num_classes: Number of classes.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _convolution(3, 32),
            _convolution(32, 64, stride=2),
            _Residual(64),
            _convolution(64, 128, stride=2),
            _Residual(128),
        )
        self.head = nn.Linear(128, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Classifies normalised images `[batch, 3, height, width]`; returns `[batch, classes]` logits."""
        return cast(Tensor, self.head(self.features(images).mean(dim=(2, 3))))
