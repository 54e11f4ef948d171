"""The random choices of a client that are scored when an attack infers them, typed: mask, order of patches, order of pixels.

A defense declares which of its choices they are (`Defense.scored`). Everything else that a client draws is told to the oracle
by name and scored by nobody.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

__all__ = ["ChoiceRole", "InferredChoices", "choices_by_role"]

ChoiceRole = Literal["mask", "order", "pixel-order"]
"""What a choice is, in the forms of `InferredChoices`."""


@dataclass(frozen=True)
class InferredChoices:
    """Mask and orders, as a client chose them or as an adversary believes that it did without having been told.

    Attributes:
        mask: `[patches]` bool, the places of the fed image whose patches use the shared "unknown" row; None: not known.
        order: `[patches]` int64, the place in the private image of the patch at each place of the fed one; of an adversary also
            `[batch, patches]`, one for each image.
        pixel_order: `[patches, pixels]` int64, the pixel of the private patch that each place of the fed one holds.
    """

    mask: Tensor | None = None
    order: Tensor | None = None
    pixel_order: Tensor | None = None

    @property
    def roles(self) -> frozenset[ChoiceRole]:
        """Which of them are stated."""
        given: dict[ChoiceRole, Tensor | None] = {"mask": self.mask, "order": self.order, "pixel-order": self.pixel_order}
        return frozenset(role for role, value in given.items() if value is not None)


def choices_by_role(choices: Mapping[str, Tensor], roles: Iterable[tuple[str, ChoiceRole]]) -> InferredChoices:
    """What a client chose, by role, where several defenses may have chosen one after another.

    Args:
        choices: By name, `defense.choice`; what a client did not draw is left out.
        roles: Names and their roles, in the order in which the defenses act. Orders are composed; a patch counts as masked
            where one of them masked it.
    """
    found: dict[ChoiceRole, Tensor] = {}
    for name, role in roles:
        chosen = choices.get(name)
        if chosen is None:
            continue
        earlier = found.get(role)
        if earlier is None:
            found[role] = chosen
        elif role == "mask":
            found[role] = earlier | chosen
        elif role == "order":
            found[role] = earlier[chosen]
        else:
            found[role] = earlier.gather(1, chosen)
    return InferredChoices(found.get("mask"), found.get("order"), found.get("pixel-order"))
