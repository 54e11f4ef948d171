"""No position embedding: the transformer cannot tell where a patch was (studied by Ren et al., CVPR 2023).

The architecture is public, so all three adversaries simulate the same forward pass and no choice is hidden.
"""

from typing import ClassVar, cast

from torch import nn

from privbench.core import Defense
from privbench.models import Victim

__all__ = ["NoPositionEmbedding"]


class NoPositionEmbedding(Defense):
    """Trains and runs the vision transformer without position embedding."""

    name: ClassVar[str] = "no-pe"

    def trained_as(self) -> str:
        """A victim of its own."""
        return self.name

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """Takes the position embedding out."""
        cast(Victim, model).remove_positions()
        return model

    def guarantee(self) -> str:
        """Only the order of patches is hidden, and only from the gradient itself."""
        return (
            "The gradient does not depend on the order of the patches, so their places cannot be read from it; "
            "their contents, and places inferred from the contents, are not protected."
        )
