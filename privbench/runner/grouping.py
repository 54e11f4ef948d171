"""How many client batches of a case are attacked together, and what an interruption left of earlier groups."""

import math
from collections.abc import Sequence

from privbench.core import ComputeOptions, GroupAttack
from privbench.runner.context import CaseContext
from privbench.runner.listener import Listener
from privbench.store.checkpoints import Checkpoints

__all__ = ["group_size"]


def group_size(
    context: CaseContext, checkpoints: Checkpoints, pending: Sequence[int], compute: ComputeOptions, listener: Listener
) -> int:
    """How many batches are attacked together; says which checkpoints that leaves without use.

    Args:
        context: The case.
        checkpoints: What is kept of it.
        pending: The batches that are not finished.
        compute: What the user wishes.
        listener: Who watches.
    """
    interrupted = [slot for slot in checkpoints.interrupted() if not set(slot.batches).isdisjoint(pending)]
    size = min(_wished(context, compute, interrupted[0].size if interrupted else None, listener), context.batches)
    for slot in interrupted:
        if slot.size != size:
            listener.note(
                f"the checkpoint {slot.file_name} is of groups of {slot.size}, these are groups of {size}; "
                "the attack on these batches starts over"
            )
    return size


def _wished(context: CaseContext, compute: ComputeOptions, begun_with: int | None, listener: Listener) -> int:
    attack = context.attack
    if not isinstance(attack, GroupAttack):
        if compute.group not in {None, 1}:
            listener.note(f"attack {attack.name} takes one client batch at a time; --group changes nothing")
        return 1
    if compute.group is not None:
        return compute.group
    if begun_with is not None:
        return begun_with
    share = math.ceil(context.batches / len(compute.devices))
    return min(attack.group_size(context.observe(0)[0]), share)
