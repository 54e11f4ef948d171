"""The benchmark of batches: a row for each image after one assignment, energy, a control, and files that are gone on with."""

import csv
import importlib.util
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.batches import COLUMNS, Client, batch_rows, main
from privbench.core import UserError
from privbench.core.flags import EXPLAINED_LIMIT

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def client() -> Client:
    return Client("vit_mini_patch4_32", "embedded", "none", "unaware", "photos")


def test_shares_of_energy_are_those_of_the_images_own_gradients(client: Client) -> None:
    rows = batch_rows(client, "adjoint-matching", [0, 1], settings={"steps": 1, "features": 0.0})
    alone = [client.sent([index])[0].update for index in (0, 1)]
    sizes = [sum(float(value.square().sum()) for value in update.values()) for update in alone]
    assert [float(row["energy"]) for row in rows] == pytest.approx([size / sum(sizes) for size in sizes], abs=1e-3)
    # After one step nothing is found.
    assert all(float(row["explained"]) < EXPLAINED_LIMIT for row in rows)


@pytest.mark.nightly
def test_a_control_is_given_another_batch_and_scored_against_this_one(client: Client) -> None:
    settings = {"steps": 40, "features": 0.0}
    own, control = (batch_rows(client, "adjoint-matching", [2, 3], further, settings) for further in (0, 2))
    assert [row["image"] for row in own] == [row["image"] for row in control] == ["2", "3"]
    assert own[0]["energy"] == control[0]["energy"]
    mean = [sum(float(row["psnr"]) for row in rows) for rows in (own, control)]
    assert mean[0] > mean[1]


def test_a_file_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "batches.csv"
    attack = ["--attack", "adjoint-matching", "--set", "steps=1", "--data", "photos", "--first", "0", "-o", str(output)]
    first = CliRunner().invoke(main, [*attack, "--batches", "1"])
    assert first.exit_code == 0, first.output
    monkeypatch.setattr("benchmarks.batches.batch_rows", lambda *_: pytest.fail("computed again"))
    again = CliRunner().invoke(main, [*attack, "--batches", "1"])
    assert again.exit_code == 0, again.output
    with output.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    assert tuple(rows[0]) == COLUMNS
    assert again.output == first.output


def test_an_attack_of_breaching_needs_its_time(client: Client) -> None:
    with pytest.raises(UserError, match="give --set seconds=NUMBER"):
        batch_rows(client, "breaching:invertinggradients", [0, 1])


@pytest.mark.skipif(importlib.util.find_spec("breaching") is None, reason="breaching is not installed (extra bench)")
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
def test_an_attack_of_breaching_gets_the_same_update(client: Client) -> None:
    rows = batch_rows(client, "breaching:invertinggradients", [0, 1], settings={"seconds": 0.5})
    ours = batch_rows(client, "adjoint-matching", [0, 1], settings={"steps": 1, "features": 0.0})
    assert [row["energy"] for row in rows] == [row["energy"] for row in ours]
    assert int(rows[0]["flags"].removeprefix("steps=")) >= 1
