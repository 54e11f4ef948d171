"""Attacks in a process of their own, and where components come from that are not built in."""

import hashlib
import inspect
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from privbench.computing import isolated
from privbench.computing.isolated import attack_isolated
from privbench.core import Case, ComponentSpec, ComputeOptions, Failure, Record, UserError, generator_for
from privbench.runner.context import load_case
from privbench.runner.plugins import plugins_of
from tests.runner.plugin import privbench_test_plugin

CPU = torch.device("cpu")


@pytest.fixture
def called_here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What would run in another process is called in this one; the folders of the tasks. The first test starts a process."""
    folders: list[str] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        folders.append(command[-1])
        isolated._main(Path(command[-1]))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(isolated, "subprocess", SimpleNamespace(run=run))
    return folders


def test_an_isolated_attack_finds_the_same(small_case: Callable[..., Case]) -> None:
    case = small_case(attack="closed-form", defense="naive-shuffle", adversary="aware", model="vit_mini_patch4_32")
    context = load_case(case, CPU)
    observation, _ = context.observe(0)
    generator = generator_for(case, "attack", 0)
    results = attack_isolated(case.attack, [observation], seeds=[generator.initial_seed()], compute=ComputeOptions())
    assert results is not None
    (found,) = results
    expected = context.attack(observation, generator=generator)
    assert not isinstance(found, Failure)
    assert torch.equal(found.images, expected.images)
    assert (found.losses, found.flags) == (expected.losses, expected.flags)
    assert found.inferred.order is not None
    assert expected.inferred.order is not None
    assert torch.equal(found.inferred.order, expected.inferred.order)


def test_a_case_can_be_run_isolated(
    small_case: Callable[..., Case], compute: Callable[..., Record], called_here: list[str], tmp_path: Path
) -> None:
    case = small_case(attack="adjoint-matching:steps=2", limit=1)
    here, apart = compute(case, output=tmp_path / "a"), compute(case, output=tmp_path / "b", isolate=True)
    assert len(called_here) == 1
    assert [image.scores for image in here.images] == [image.scores for image in apart.images]


def test_errors_of_the_isolated_process_are_errors_here(small_case: Callable[..., Case], called_here: list[str]) -> None:
    observation, _ = load_case(small_case(batch_size=2), CPU).observe(0)
    closed_form = ComponentSpec(name="closed-form")
    with pytest.raises(UserError, match="takes one image per update"):
        attack_isolated(closed_form, [observation], seeds=[0], compute=ComputeOptions())
    wrong = ComponentSpec(name="gradvit", parameters={"steps": -1})
    with pytest.raises(UserError, match="steps"):
        attack_isolated(wrong, [observation], seeds=[0], compute=ComputeOptions())
    assert len(called_here) == 2


def test_another_process_knows_what_is_installed_and_nothing_else(small_case: Callable[..., Case]) -> None:
    observation, _ = load_case(small_case(), CPU).observe(0)
    # The test attacks are registered in this process alone.
    with pytest.raises(UserError, match="unknown attack 'test-walk'"):
        attack_isolated(ComponentSpec(name="test-walk"), [observation], seeds=[0], compute=ComputeOptions())


def test_a_record_names_what_is_not_built_in(small_case: Callable[..., Case], compute: Callable[..., Record]) -> None:
    built_in = "vit_mini_patch4_32"
    (origin,) = compute(small_case(model=built_in)).plugins
    source = Path(inspect.getsourcefile(privbench_test_plugin) or "").read_bytes()
    assert (origin.kind, origin.name) == ("attack", "test-walk")
    assert origin.target == f"{privbench_test_plugin.__name__}:Walk"
    assert origin.source_sha256 == hashlib.sha256(source).hexdigest()
    # It was registered by a fixture, and so belongs to no installed package.
    assert (origin.distribution, origin.version) == (None, None)
    assert plugins_of(small_case(attack="gradvit", model=built_in), ["psnr", "lpips"]) == ()
