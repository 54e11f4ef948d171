"""Device purity without a GPU: what runs with all tensors on the device `meta` makes no tensor on the CPU by mistake.

An operation between a tensor on `meta` and one on the CPU raises, as it would on CUDA; so does whoever reads a value. What must
read values is listed here by name, so that nothing joins the list unseen.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import pytest
import torch

from privbench.conformance.harness import client_update
from privbench.core import ATTACKS, DEFENSES, METRICS, ComputeOptions, GroupAttack, Progress, UserError
from privbench.inversion import Inversion, Target
from privbench.inversion.loop import OptimisationLoop
from privbench.scoring import MetricFactory, SuiteOptions, registered_metric

META = torch.device("meta")
ADVERSARIES = ("unaware", "aware", "oracle")
OPTIMISATION = [name for name in ATTACKS.names() if issubclass(ATTACKS.get(name), GroupAttack)]
READS = {
    ("mjp", "aware"): "the masked rows are counted",
    ("precode", "aware"): "the layer's input is solved for",
    ("soteria", "aware"): "the pruned columns are looked for",
    ("soteria", "oracle"): "the same",
}
"""Views that read values, and for what."""
READS_TO_START = {
    ("adjoint-matching", "mjp", "oracle"): "whether a patch is hidden decides where to start",
    ("adjoint-matching", "instahide", "unaware"): "the last block of a batch is undone",
    ("adjoint-matching", "mixup", "unaware"): "the same",
}


class StepsTakenError(Exception):
    """The first and the last step ran."""


def _walk(inversion: Inversion, targets: Sequence[Target], progress: Progress, compute: ComputeOptions) -> NoReturn:
    """In place of a run: the first step and the last one, which between them have most terms."""
    loop = OptimisationLoop(inversion, targets, progress, compute)
    for step in (0, inversion.steps - 1):
        layout, row = loop.plan.at(step)
        moving, losses = inversion.active(step)(
            loop.state.moving, layout.settings(row), loop.observed, loop.context, inversion.parameters
        )
        assert {tensor.device for tensor in (*moving.tensors, losses)} == {META}
    raise StepsTakenError


def _cases() -> Iterator[Any]:
    """All by night; each attack without a defense, and the default attack under each defense, by day."""
    for name in OPTIMISATION:
        for defense in DEFENSES.names():
            for adversary in ADVERSARIES:
                by_day = adversary == "aware" and (defense == "none" or name == "adjoint-matching")
                yield pytest.param(name, defense, adversary, marks=[] if by_day else [pytest.mark.nightly])


@pytest.mark.parametrize(("name", "defense", "adversary"), list(_cases()))
def test_steps_are_pure_but_where_a_view_must_read_values(
    name: str, defense: str, adversary: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    observation = client_update(defense, adversary=adversary, labels="known").observation
    attack = ATTACKS.get(name)()
    try:
        attack.require(observation)
    except UserError as reason:
        pytest.skip(str(reason))
    monkeypatch.setattr(Inversion, "run", _walk)
    reads = (defense, adversary) in READS or (name, defense, adversary) in READS_TO_START
    expected = (
        pytest.raises(RuntimeError, match=r"item.* meta tensors|copy out of meta") if reads else pytest.raises(StepsTakenError)
    )
    with expected:
        attack(observation.to(META), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", METRICS.names())
def test_a_metric_copies_images_to_the_cpu_first(name: str) -> None:
    metric = registered_metric(name)
    if isinstance(metric, MetricFactory):
        metric = metric.metric(SuiteOptions(patch_size=4, image_size=32))
    images = torch.zeros(1, 3, 32, 32, device=META)
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):
        metric.compute(images, images)
