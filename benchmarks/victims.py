"""What is attacked in the benchmarks: observed gradients of the embedded photos on a victim, without a defense."""

import torch

from benchmarks.ours import Problem
from privbench.core import generator_for
from privbench.models import Victim
from privbench.resolving.options import RunOptions
from privbench.resolving.resolve import resolve_cases
from privbench.runner.context import load_case

__all__ = ["problems_of"]


def problems_of(model: str, batch: int, count: int, device: torch.device) -> tuple[Victim, list[Problem]]:
    """Victims with known labels and uniform starts.

    Args:
        model: An embedded model, or a timm model with random weights.
        batch: Images per gradient; the photos are taken in turn.
        count: Number of victims.
        device: Where to put them.
    """
    weights = "embedded" if model == "vit_mini_patch4_32" else "random"
    options = RunOptions(defense="none", model=model, weights=weights, labels="known", batch_size=batch, limit=8)
    case = resolve_cases(options)[0]
    prepared = load_case(case, device)
    problems = []
    for number in range(count):
        observation, _ = prepared.observe(number % prepared.batches)
        start = torch.rand(batch, *observation.image_shape, generator=generator_for(case, "attack", number))
        labels = observation.labels
        if labels is None:
            raise RuntimeError("the labels were asked for")
        problems.append(Problem(observation.gradients, labels, start.to(device)))
    return prepared.victim, problems
