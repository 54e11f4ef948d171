"""What the engine optimises: named tensors, each with an Adam of its own, and how some of them make up the images.

Most attacks optimise pixels. An image as a sum of smaller ones in decorrelated colour (after Olah et al., "Feature
Visualization", Distill 2017) finds large shapes first; other variables, such as label logits, reach the simulator by name.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, Self

import torch
from torch import Tensor, nn

from privbench.inversion.optimisers import Adam
from privbench.inversion.schedule import Constant

__all__ = [
    "Moving",
    "Parametrisation",
    "ParametrisationName",
    "Pixels",
    "Pyramid",
    "Variable",
    "parametrisation",
    "pyramid_sizes",
]

ParametrisationName = Literal["pixels", "pyramid"]
"""`pixels`: every pixel is a variable of its own; `pyramid`: the image is a sum of enlarged smaller ones."""

_COLOUR = (
    (0.26 / 0.27, 0.09 / 0.27, 0.02 / 0.27),
    (1.0, 0.0, -0.05 / 0.27),
    (1.0, -0.09 / 0.27, 0.03 / 0.27),
)
"""From decorrelated channels to red, green and blue, as published; a step in the first one is about a step in brightness."""


_DEFAULT = Adam(Constant(0.03))


@dataclass(frozen=True)
class Variable:
    """How one named tensor moves.

    Attributes:
        optimiser: Adam and its learning rate over time; None: it stays, until the engine's loop writes another value.
        box: The values between which it is kept; None for any.
    """

    optimiser: Adam | None
    box: tuple[float, float] | None = None


@dataclass(frozen=True)
class Moving:
    """Values of all variables and Adam's memory of them, by name; a checkpoint needs nothing else.

    Attributes:
        values: Name to `[victims, trials, ...]`.
        first: Adam's first moments, the same names and shapes.
        second: Adam's second moments.
    """

    values: dict[str, Tensor]
    first: dict[str, Tensor]
    second: dict[str, Tensor]

    @classmethod
    def at_rest(cls, values: Mapping[str, Tensor]) -> Self:
        """Without any memory."""
        return cls(dict(values), _zeros(values), _zeros(values))

    @property
    def tensors(self) -> list[Tensor]:
        """All of them, in an order that `like` undoes."""
        return [*self.values.values(), *self.first.values(), *self.second.values()]

    def like(self, tensors: list[Tensor]) -> Self:
        """The same names with other tensors, in the order of `tensors`."""
        names, count = list(self.values), len(self.values)
        parts = [dict(zip(names, tensors[start : start + count], strict=True)) for start in range(0, 3 * count, count)]
        return type(self)(*parts)

    def of(self, victim: int) -> Self:
        """Those of one victim, `[1, trials, ...]`."""
        return self.like([tensor[[victim]] for tensor in self.tensors])


def _zeros(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.zeros_like(value) for name, value in values.items()}


class Parametrisation(ABC):
    """How variables make up candidate images."""

    @property
    @abstractmethod
    def variables(self) -> Mapping[str, Variable]:
        """The variables by name."""

    @abstractmethod
    def begin(self, images: Tensor) -> dict[str, Tensor]:
        """The variables that make up given images `[..., 3, height, width]` in [0, 1]."""

    @abstractmethod
    def images(self, values: Mapping[str, Tensor]) -> Tensor:
        """The images `[..., 3, height, width]` that given variables make up; differentiable, perhaps outside [0, 1]."""

    @abstractmethod
    def moved(self, moving: Moving, move: Callable[[Tensor], Tensor]) -> Moving:
        """Moves pixels, and Adam's memory of them where a variable is a pixel.

        Args:
            moving: Of one victim and trial, without those two dimensions; other variables are left as they are.
            move: Takes images `[batch, 3, height, width]` and gives them back with pixels in other places.
        """


@dataclass(frozen=True)
class Pixels(Parametrisation):
    """Every pixel is a variable, kept in [0, 1].

    Attributes:
        optimiser: Its learning rate is in pixels; L-BFGS, which has a step and no box of its own, does not look at it.
    """

    optimiser: Adam = _DEFAULT

    @property
    def variables(self) -> Mapping[str, Variable]:
        """One."""
        return {"pixels": Variable(self.optimiser, box=(0.0, 1.0))}

    def begin(self, images: Tensor) -> dict[str, Tensor]:
        """The images themselves."""
        return {"pixels": images}

    def images(self, values: Mapping[str, Tensor]) -> Tensor:
        """The variable itself."""
        return values["pixels"]

    def moved(self, moving: Moving, move: Callable[[Tensor], Tensor]) -> Moving:
        """Moves pixels with their moments."""
        parts = [{**part, "pixels": move(part["pixels"])} for part in (moving.values, moving.first, moving.second)]
        return Moving(*parts)


@dataclass(frozen=True)
class Pyramid(Parametrisation):
    """Mid-grey plus a sum of images of several sizes, bilinearly enlarged, in decorrelated colour.

    Attributes:
        sizes: Heights (and widths) in pixels, growing; the last one is the images' own.
        optimiser: Of all levels; L-BFGS does not look at it.
        fine_levels: How many of the finest levels move more slowly.
        fine_rate: By what the learning rate is multiplied from one of these to the next finer one.
    """

    sizes: tuple[int, ...]
    optimiser: Adam = _DEFAULT
    fine_levels: int = 4
    fine_rate: float = 1.0

    @property
    def variables(self) -> Mapping[str, Variable]:
        """One for each size."""
        slower = [max(0, place - len(self.sizes) + 1 + self.fine_levels) for place in range(len(self.sizes))]
        return {
            _level(size): Variable(self.optimiser.slower(self.fine_rate**power))
            for size, power in zip(self.sizes, slower, strict=True)
        }

    def begin(self, images: Tensor) -> dict[str, Tensor]:
        """Each level holds what the coarser ones leave, averaged down to its size; their sum is exact."""
        rest = torch.einsum("kc,...chw->...khw", torch.linalg.inv(images.new_tensor(_COLOUR)), images - 0.5)
        levels = {}
        for size in self.sizes:
            levels[_level(size)] = _resized(rest, partial(nn.functional.adaptive_avg_pool2d, output_size=size))
            rest = rest - self._enlarged(levels[_level(size)])
        return levels

    def images(self, values: Mapping[str, Tensor]) -> Tensor:
        """The sum of all levels."""
        total = values[_level(self.sizes[-1])]
        for size in self.sizes[:-1]:
            total = total + self._enlarged(values[_level(size)])
        return 0.5 + torch.einsum("ck,...khw->...chw", torch.tensor(_COLOUR, dtype=total.dtype).to(total.device), total)

    def moved(self, moving: Moving, move: Callable[[Tensor], Tensor]) -> Moving:
        """The finest level takes up the difference, and its moments move with the pixels; coarser levels stay."""
        name = _level(self.sizes[-1])
        images = self.images(moving.values)
        change = torch.einsum("kc,...chw->...khw", torch.linalg.inv(images.new_tensor(_COLOUR)), move(images) - images)
        return Moving(
            {**moving.values, name: moving.values[name] + change},
            {**moving.first, name: move(moving.first[name])},
            {**moving.second, name: move(moving.second[name])},
        )

    def _enlarged(self, level: Tensor) -> Tensor:
        size = self.sizes[-1]
        if level.shape[-1] == size:
            return level
        # As two products: torch's own kernel is slower, backwards above all.
        spread = nn.functional.interpolate(
            torch.eye(level.shape[-1], dtype=level.dtype, device=level.device)[None], size, mode="linear", align_corners=False
        )[0]
        return spread.T @ (level @ spread)


def _level(size: int) -> str:
    return f"level-{size}"


def _resized(images: Tensor, resize: Callable[[Tensor], Tensor]) -> Tensor:
    """Applies to images with any number of leading dimensions what takes one."""
    resized = resize(images.reshape(-1, *images.shape[-3:]))
    return resized.reshape(*images.shape[:-2], *resized.shape[-2:])


def pyramid_sizes(image_size: int) -> tuple[int, ...]:
    """The image's size halved as often as it can be without falling below 4 pixels, coarse first."""
    sizes = [image_size]
    while sizes[-1] % 2 == 0 and sizes[-1] >= 8:
        sizes.append(sizes[-1] // 2)
    return tuple(reversed(sizes))


def parametrisation(name: ParametrisationName, image_size: int, optimiser: Adam = _DEFAULT) -> Parametrisation:
    """The parametrisation of a name, with one learning rate for all variables.

    Args:
        name: Its name.
        image_size: Height and width in pixels.
        optimiser: Adam; its learning rate is in pixels.
    """
    return Pixels(optimiser) if name == "pixels" else Pyramid(pyramid_sizes(image_size), optimiser)
