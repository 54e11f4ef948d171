"""Groups of a transformer's layers by name, for attacks that match the gradients of some layers alone."""

import re
from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator

from privbench.core import Observation, UserError

__all__ = ["LayerGroup", "groups_among", "is_in_group", "is_up_to_a_layer", "require_group"]

_UP_TO = ("all", "first-block", "embedding")
"""Groups that begin at the input; they go by what is left out, and exist in every model."""
_SINGLE = {
    "position": r"network\.pos_embed",
    "patch-embedding": r"network\.patch_embed\..*",
    "attention": r"network\.blocks\.\d+\.attn\..*",
    "mlp": r"network\.blocks\.\d+\.mlp\..*",
    "head": r"network\.head\..*",
}
"""Name of a group to the parameters in it; `block-N` beside these is `network.blocks.N.` with its LayerNorms."""


def _known(value: str) -> str:
    if value in _UP_TO or value in _SINGLE or re.fullmatch(r"block-\d+", value):
        return value
    raise ValueError(f"no group of parameters; accepted: {', '.join([*_UP_TO, *_SINGLE])} or block-N")


LayerGroup = Annotated[str, AfterValidator(_known)]
"""A group's name: `all`, `first-block`, `embedding`, or a single one, `position`, `head`, `block-0`, ..."""


def is_up_to_a_layer(group: str) -> bool:
    """Whether a group begins at the input, as every model has it."""
    return group in _UP_TO


def is_in_group(group: str, name: str) -> bool:
    """Whether a parameter is in a group.

    Args:
        group: As `LayerGroup` has it.
        name: Of the parameter.
    """
    if group in _UP_TO:
        block = "blocks." in name
        deep = ".head" in name or ".norm." in name or (block and "blocks.0." not in name)
        return {"all": True, "first-block": not deep, "embedding": not deep and not block}[group]
    number = group.removeprefix("block-")
    return re.fullmatch(_SINGLE.get(group, rf"network\.blocks\.{number}\..*"), name) is not None


def groups_among(names: Iterable[str]) -> list[str]:
    """The groups that some of these parameters are in."""
    names = list(names)
    blocks = {int(found[1]) for name in names if (found := re.match(r"network\.blocks\.(\d+)\.", name))}
    single = [*_SINGLE, *(f"block-{number}" for number in sorted(blocks))]
    return [*_UP_TO, *(group for group in single if any(is_in_group(group, name) for name in names))]


def require_group(group: str, observation: Observation, attack: str) -> None:
    """Refuses an update without any gradient of a group.

    Args:
        group: What is to be matched.
        observation: The update.
        attack: Its name, for the message.

    Raises:
        UserError: There is none.
    """
    if not any(is_in_group(group, name) for name in observation.gradients):
        raise UserError(
            f"attack {attack} matches layers={group}, and {observation.model.name} under {observation.defense_text} has "
            f"no such parameters; accepted for it: {', '.join(groups_among(observation.gradients))}"
        )
