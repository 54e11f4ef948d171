"""The embedded convolutional network whose batch-normalisation statistics serve as image prior (GradViT's R_image).

Small on purpose: the prior is evaluated at every step of the second half of an attack.
"""

from typing import cast

from torch import Tensor, nn

__all__ = ["PriorCnn", "Residual", "convolution"]


def convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """3x3, batch normalisation, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class Residual(nn.Module):
    """Two convolutions around which the input passes.

    Args:
        width: Number of channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(convolution(width, width), convolution(width, width))

    def forward(self, features: Tensor) -> Tensor:
        """`[batch, width, height, width]` to the same shape."""
        return cast(Tensor, features + self.body(features))


class PriorCnn(nn.Module):
    """Residual CNN for 32x32 images: widths 32, 64, 128, eight convolutions, batch normalisation after each.

    Args:
        num_classes: Number of classes.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            convolution(3, 32),
            convolution(32, 64, stride=2),
            Residual(64),
            convolution(64, 128, stride=2),
            Residual(128),
        )
        self.head = nn.Linear(128, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Classifies normalised images `[batch, 3, height, width]`; returns `[batch, classes]` logits."""
        return cast(Tensor, self.head(self.features(images).mean(dim=(2, 3))))
