"""Federated averaging: a round is the mean of what the clients trained by themselves."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from benchmarks.federated import Federation, deployed_accuracy, federate, main, whole_runs
from privbench.core import LocalTraining, UserError
from tests.conformance import some_images


def _client(start: int) -> tuple[Tensor, Tensor]:
    images = (255 * some_images(8)[start : start + 4]).to(torch.uint8)
    return images, torch.tensor([0, 1, 2, 3])


def test_a_round_moves_the_server_by_the_mean_of_what_its_clients_train_alone() -> None:
    server = Federation.fresh("none", 4, seed=1)
    training = LocalTraining(optimiser="sgd", learning_rate=0.1, steps=3)
    before = copy.deepcopy(server.victim.state_dict())
    alone = []
    for start in (0, 4):
        images, labels = _client(start)
        victim = copy.deepcopy(server.victim)
        optimiser = torch.optim.SGD(victim.parameters(), 0.1)
        for _ in range(3):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(victim(images.float() / 255), labels).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        alone.append(victim.state_dict())
    clients = [_client(0), _client(4)]
    assert list(federate(server, clients, training, 1, torch.Generator().manual_seed(0))) == [1]
    for name, value in server.victim.state_dict().items():
        expected = (alone[0][name] + alone[1][name]) / 2
        assert torch.allclose(value, expected, atol=1e-5), name
    assert not torch.equal(server.victim.state_dict()["network.head.weight"], before["network.head.weight"])


def test_both_defenses_start_from_the_same_weights_and_layers_stay_on_when_measured() -> None:
    plain, random = (Federation.fresh(text, 4, seed=2) for text in ("none", "stochastic-layers:spread=3"))
    states = [one.victim.state_dict() for one in (plain, random)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    test = _client(0)[0].repeat(10, 1, 1, 1), torch.arange(4).repeat(10)
    assert deployed_accuracy(plain, test, 2, 0) in {0.0, 0.25, 0.5, 0.75, 1.0}  # equal images, equal answers
    assert deployed_accuracy(random, test, 2, 0) not in {0.0, 0.25, 0.5, 0.75, 1.0}


SMALL = ["--images", "32", "--test-images", "8", "--clients", "1", "--rounds", "1", "--tuning", "1", "--draws", "1"]


@pytest.fixture
def four_classes(tmp_path: Path) -> Path:
    """Noise of four classes, as train.npz and test.npz."""
    (tmp_path / "noise").mkdir()
    rng = np.random.default_rng(0)
    for name, count in (("train", 80), ("test", 32)):
        images = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        np.savez(tmp_path / "noise" / f"{name}.npz", images=images, labels=np.arange(count) % 4)
    return tmp_path / "noise"


@pytest.mark.nightly
def test_a_run_that_was_interrupted_goes_on_as_if_it_had_not_been(four_classes: Path, tmp_path: Path) -> None:
    def run(name: str, seeds: int) -> str:
        given = [*SMALL, "--data", str(four_classes), "--seeds", str(seeds), "-o", str(tmp_path / name)]
        done = CliRunner().invoke(main, given, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return (tmp_path / name).read_text(encoding="utf-8")

    whole = run("whole.csv", 2)
    lines = whole.splitlines(keepends=True)
    # Ended within the second seed's second defense.
    (tmp_path / "part.csv").write_text("".join(lines[:-1]), encoding="utf-8")
    assert run("part.csv", 2) == whole
    # What is there is not computed again: a changed number stays.
    changed = lines[1].rpartition(",")[0] + ",0.1234\n"
    (tmp_path / "kept.csv").write_text("".join([lines[0], changed, *lines[2:]]), encoding="utf-8")
    assert run("kept.csv", 2).splitlines(keepends=True)[1] == changed


def test_rows_of_other_numbers_of_rounds_are_refused() -> None:
    rows = [["0", "none", "federated", str(number), "0.5"] for number in range(1, 5)]
    assert whole_runs(rows, 4) == rows
    assert whole_runs([*rows, ["1", "none", "federated", "1", "0.5"]], 4) == rows
    with pytest.raises(UserError, match="seed 0 of none has 4 rows"):
        whole_runs(rows, 3)
