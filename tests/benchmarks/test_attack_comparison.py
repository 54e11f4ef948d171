"""Both sides of a comparison attack the same update with the budget they were given."""

import csv
import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from benchmarks.attacks import COMPARISONS, April, Comparison, Update, april_model, april_updates, compare, main, updates
from benchmarks.peer import attack_with_breaching
from benchmarks.timing import append_rows
from privbench.core import UserError

needs_breaching = [
    pytest.mark.skipif(importlib.util.find_spec("breaching") is None, reason="breaching is not installed (extra bench)"),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning"),
]


@pytest.fixture(scope="module")
def client() -> Update:
    return updates(1)[0]


class TestWithBreaching:
    pytestmark = needs_breaching

    def test_one_signed_step_from_our_start_moves_every_pixel_by_the_step_of_our_attack(self, client: Update) -> None:
        start = torch.full_like(client.secret.images, 0.4)
        before = {name: value.clone() for name, value in client.victim.state_dict().items()}
        state = torch.get_rng_state()
        comparison = COMPARISONS["inverting-gradients, same settings"]
        overrides = ["optim.max_iterations=1", "optim.callback=1", "optim.step_size_decay=null", *comparison.overrides]
        peer = attack_with_breaching(comparison.config, client.victim, client.observation, overrides=overrides, start=start)
        moved = (peer.images - start).abs()
        learning_rate = float(comparison.ours(1).parameters()["learning_rate"])
        # The normalisation's deviation is 0.2435 to 0.2616 by channel, its rounded value 0.25.
        assert torch.allclose(moved[moved > 0], torch.tensor(learning_rate), rtol=0.05)
        assert (moved > 0).double().mean() > 0.99
        assert peer.evaluations == 2
        assert not peer.gave_up
        assert torch.equal(torch.get_rng_state(), state)
        assert all(torch.equal(value, before[name]) for name, value in client.victim.state_dict().items())

    @pytest.mark.parametrize("name", ["inverting-gradients, published", "dlg, published"])
    def test_both_sides_get_the_budget(self, client: Update, name: str) -> None:
        comparison = COMPARISONS[name]
        steps = comparison.ours(20).parameters()["steps"]
        assert steps * comparison.per_step == 20
        row = compare(name, comparison, [client], 20)
        # breaching scores its result once, and an L-BFGS call more stands for the evaluation after each of our steps.
        assert int(row["evaluations"]) == (21 if comparison.per_step == 1 else 41)
        assert float(row["difference"]) == pytest.approx(float(row["ours"]) - float(row["breaching"]), abs=0.011)
        assert row["n"] == "1"

    def test_the_closed_form_finds_the_photo_on_both_sides(self) -> None:
        with april_model():
            row = compare("april", April(), april_updates(1, "embedded"), 0)
        assert float(row["ours"]) > 60
        assert float(row["breaching"]) > 60

    def test_an_objective_that_is_not_finite_is_said_to_be_given_up(self, client: Update) -> None:
        overrides = ["attack_type=optimization", "optim.step_size=1e30", "optim.max_iterations=2"]
        peer = attack_with_breaching("deepleakage", client.victim, client.observation, overrides=overrides)
        assert peer.gave_up
        assert torch.allclose(peer.images, client.victim.mean.expand_as(peer.images), atol=1e-6)


def test_without_breaching_there_is_one_line(monkeypatch: pytest.MonkeyPatch, client: Update) -> None:
    monkeypatch.setitem(sys.modules, "breaching", None)
    with pytest.raises(UserError, match=r"install privbench\[bench\]"):
        attack_with_breaching("invertinggradients", client.victim, client.observation)
    with pytest.raises(UserError, match=r"install privbench\[bench\]"), april_model():
        pass


def test_an_unknown_row_is_refused_with_those_that_exist() -> None:
    result = CliRunner().invoke(main, ["--only", "dgl"])
    assert result.exit_code == 2
    assert "dlg, published" in result.output


def test_the_published_rows_leave_the_settings_of_breaching_alone() -> None:
    for name, comparison in COMPARISONS.items():
        assert isinstance(comparison, Comparison)
        if name.endswith("published"):
            assert comparison.preset == "paper"
            assert set(comparison.overrides) <= {"attack_type=optimization"}
            assert not comparison.same_start


def test_a_table_gets_one_head_and_the_machine(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    append_rows(path, [{"a": "1"}], 1)
    append_rows(path, [{"a": "2"}], 1)
    append_rows(None, [{"a": "3"}], 1)
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["a"] for row in rows] == ["1", "2"]
    assert rows[0]["machine"]
    assert rows[0]["threads"] == "1"
