"""The engine: minimises a weighted sum of gradient distances and image priors over named variables, many victims at once.

An attack is a declaration (terms with schedules, variables, a start, moves); the engine runs it for a group of victims with
several trials each, skips every term whose weight is 0, reports, checkpoints, and picks the trial whose gradient fits best. It
sees no truth.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from privbench.core import ComputeOptions, Failure, Progress
from privbench.inversion.loop import OptimisationLoop
from privbench.inversion.problem import Outcome, Problem, Target
from privbench.inversion.runner import matmul_precision

__all__ = ["Inversion", "group_size"]


def group_size(*, tokens: int, parameters: int, device: torch.device) -> int:
    """How many victims are best attacked in one step.

    On the CPU eight of a small model, the size that was measured (docs/research/benchmarks.md), and fewer of a larger one,
    whose products are wide enough alone. On CUDA the group grows until the tokens of a step fill the device or a quarter of its
    free memory is used, counted as six copies of the matched gradients and 200 values per token and unit of width: an
    estimate that no GPU has confirmed; where it is too large, the caller halves the group.

    Args:
        tokens: Tokens of all trials and images of one victim.
        parameters: Number of matched parameter values.
        device: Where to compute.

    Returns:
        At least 1.
    """
    if device.type != "cuda":
        return max(1, min(8, 1024 // max(tokens, 1)))
    free, _ = torch.cuda.mem_get_info(device)
    by_memory = free // 4 // (24 * parameters + 200 * 4 * 768 * tokens)
    return int(max(1, min(256, 65536 // max(tokens, 1), by_memory)))


@dataclass(frozen=True)
class Inversion(Problem):
    """A problem with its solver, the same for all victims of a group."""

    def run(
        self, targets: Sequence[Target], progress: Progress | None = None, compute: ComputeOptions | None = None
    ) -> list[Outcome | Failure]:
        """Minimises for every target, all in one step.

        Args:
            targets: At least one. The outcome of one does not depend on the others, to rounding.
            progress: Gets a report every few steps, and the chance to keep a checkpoint after each.
            compute: How to compute.

        Returns:
            One outcome for each target; a failure where its objective became non-finite.
        """
        progress, compute = progress or Progress(), compute or ComputeOptions()
        detached = replace(self, parameters={name: value.detach() for name, value in self.parameters.items()})
        with matmul_precision(compute, targets[0].start.device):
            return OptimisationLoop(detached, targets, progress, compute).complete()

    def solve(self, target: Target, progress: Progress | None = None) -> Outcome:
        """Minimises for one target.

        Raises:
            FloatingPointError: The objective became non-finite.
        """
        (outcome,) = self.run([target], progress)
        if isinstance(outcome, Failure):
            raise FloatingPointError(outcome.reason)
        return outcome
