"""Fishing for user data (Wen et al., ICML 2022, arXiv 2202.00580): of a batch, only images of one class have a gradient.

The classifier's rows of all other classes are set to zero and their biases so high that the wanted class is never predicted.
The derivative by an image's features is then that of the wanted class's row, for images of that class, and zero for all others:
behind the classifier the batch's gradient is that of one image where the class occurs once. Class fishing alone; the paper's
cut along one feature, for several images of a class, is not part of it.
"""

from typing import Annotated, Any, ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from privbench.core import Server, UserError

__all__ = ["Fishing"]


class Fishing(Server):
    """Changes the classifier alone; the architecture is untouched."""

    name: ClassVar[str] = "fishing"
    attack: ClassVar[str] = "fishing"

    target: Annotated[int, Field(ge=0)] = 0
    """The class that is fished for."""
    bias: Annotated[float, Field(gt=0)] = 1000.0
    """Bias of all other classes."""

    def poison(self, model: nn.Module, generator: torch.Generator, public: Tensor | None = None) -> None:
        """Sets rows and biases of all other classes."""
        weight, bias = (cast(Any, model).get_parameter(name) for name in cast(Any, model).classifier_names())
        if self.target >= len(weight):
            raise UserError(f"server fishing for class {self.target} of a model with classes 0 to {len(weight) - 1}")
        others = torch.arange(len(weight)) != self.target
        with torch.no_grad():
            weight[others] = 0
            bias[others] = self.bias
