"""One call of an attack, and what may go wrong in it.

Numbers can fail: a matrix is singular, a value is not finite, the memory is too small. That is a result, a row with the worst
scores and the reason. Anything else that an attack raises is a fault of its code or of the set-up; it ends the run without a
record, because a defense must not look private where an attack was never carried out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from privbench.core import (
    Attack,
    AttackError,
    ComputeOptions,
    Failure,
    Observation,
    Progress,
    Reconstruction,
    UserError,
)

__all__ = ["GroupOutcome", "attack_group", "is_numerical"]


_SINGULAR = (torch.linalg.LinAlgError, np.linalg.LinAlgError)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class GroupOutcome:
    """How the attack on a group of client batches ended.

    Attributes:
        results: One for each batch; None where the memory was too small for so many together.
        seconds: Wall time, earlier sessions included.
    """

    results: Sequence[Reconstruction | Failure] | None
    seconds: float


def attack_group(
    attack: Attack,
    observations: Sequence[Observation],
    *,
    generators: Sequence[torch.Generator],
    progress: Progress,
    compute: ComputeOptions,
) -> Sequence[Reconstruction | Failure] | None:
    """Attacks a group.

    Returns:
        One result for each observation; None where the memory is too small for so many of them.

    Raises:
        UserError: The attack does not apply.
        AttackError: It broke, for another reason than numbers.
    """
    try:
        results = attack.together(observations, generators=generators, progress=progress, compute=compute)
    except UserError:
        raise
    except Exception as error:
        if not is_numerical(error):
            raise AttackError(
                f"attack {attack.name} broke: {_one_line(error)}; this is a fault of its code or of the set-up and no "
                "measurement, so no record is written"
            ) from error
        if _out_of_memory(error) and len(observations) > 1:
            return None
        return [Failure(_one_line(error))] * len(observations)
    return [_finite(result) for result in results]


def is_numerical(error: BaseException) -> bool:
    """Whether an error says that numbers failed: not finite, singular, without convergence, or too many for the memory."""
    if isinstance(error, _SINGULAR) or _out_of_memory(error):
        return True
    # Division of Python numbers by zero, and their overflow, are slips of code.
    return isinstance(error, ArithmeticError) and not isinstance(error, ZeroDivisionError | OverflowError)


def _out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "not enough memory" in text)


def _finite(result: Reconstruction | Failure) -> Reconstruction | Failure:
    if isinstance(result, Failure):
        return result
    broken = [name for name, value in result.losses.items() if not math.isfinite(value)]
    return Failure(f"the loss {broken[0]} is not finite") if broken else result


def _one_line(error: BaseException) -> str:
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first}"[:300] if first else type(error).__name__
