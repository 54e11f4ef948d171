"""The label benchmark draws the batches it says it draws and counts labels with their repeats."""

from collections import Counter

import pytest
import torch
from click.testing import CliRunner

from benchmarks.labels import draws, found, main
from privbench.core import UserError
from tests.conformance import client_update

LABELS = [number % 10 for number in range(200)]


@pytest.mark.parametrize("size", [4, 8])
@pytest.mark.parametrize("repeated", [False, True])
def test_labels_repeat_exactly_where_they_should(size: int, repeated: bool) -> None:
    batches = list(draws(LABELS, size, repeated, 20, torch.Generator().manual_seed(1)))
    assert len(batches) == 20
    for batch in batches:
        assert len(set(batch)) == size
        assert (max(Counter(LABELS[index] for index in batch).values()) > 1) == repeated


@pytest.mark.parametrize(("size", "repeated"), [(1, True), (11, False)])
def test_batches_that_cannot_exist_are_said_so(size: int, repeated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.labels._TRIES", 50)
    with pytest.raises(UserError, match="no batch of"):
        list(draws(LABELS, size, repeated, 1, torch.Generator()))


def test_a_label_counts_as_often_as_it_occurs() -> None:
    observation = client_update(batch=3).observation  # labels 3, 4, 5
    weight = "network.head.weight"
    assert found(observation, [3, 4, 5], weight, "last-layer") == 1
    assert found(observation, [3, 3, 3], weight, "last-layer") == pytest.approx(1 / 3)
    assert found(observation, [0, 1, 2], weight, "bias-counts") == 0


def test_the_table_names_what_is_refused() -> None:
    result = CliRunner().invoke(main, ["--data", "photos", "--size", "1", "--size", "2", "--batches", "2"])
    assert result.exit_code == 0, result.output
    lines = dict(line.split(" | ", 2)[0:3:2] for line in result.stdout.splitlines() if line.startswith(("1 | no", "2 | no")))
    assert lines["1"].count("whole 1.00") == 3
    assert lines["2"].startswith("refused")
    assert "idlg is for one image" in result.stderr
