"""At 80 columns tables keep every digit, and no word is broken."""

import io
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

import privbench
from privbench.cli.console import say
from privbench.core import Record
from privbench.results import Results
from privbench.tables.cases import case_table, defenses_table
from privbench.tables.comparisons import comparisons_table

PACK = Path(__file__).parents[2] / "results" / "reference.jsonl.gz"


@pytest.fixture(scope="module")
def reference() -> Results:
    return privbench.load_results(PACK)


def lines(table: RenderableType, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def words(shown: Sequence[str]) -> set[str]:
    return {word for line in shown for word in line.split()}


def single(reference: Results) -> list[Record]:
    return [record for record in reference.records if not record.members]


def test_a_case_shows_whole_headings_and_numbers(reference: Results) -> None:
    record = single(reference)[0]
    shown = lines(case_table(record, "none"))
    assert {"PSNR-patch", "dB", "explained", "seconds", "interval"} <= words(shown)
    assert f"{record.summary['psnr'].mean:.2f}" in words(shown)
    assert "…" not in "".join(shown)
    assert max(map(len, shown)) <= 80


def test_defenses_beside_each_other_keep_their_intervals(reference: Results) -> None:
    records = single(reference)[:3]
    shown = lines(defenses_table(records, ["none", "naive-shuffle", "mjp:mask_ratio=0.27"], width=80))
    assert "…" not in "".join(shown)
    assert {"naive-shuffle", "mjp:", "mask_ratio=0.27", "explained", "accuracy", "%"} <= words(shown)
    assert max(map(len, shown)) <= 80
    for record in records:
        interval = record.summary["psnr_patch"]
        assert {f"{interval.mean:.2f}", f"[{interval.low:.2f},", f"{interval.high:.2f}]"} <= words(shown)


@pytest.mark.parametrize(("width", "apart"), [(80, False), (140, True)])
def test_a_comparison_shows_data_n_and_the_corrected_p_at_any_width(width: int, apart: bool, reference: Results) -> None:
    found = reference.comparisons()[:6]
    shown = lines(comparisons_table(found, "psnr", "none", width=width), width)
    assert "…" not in "".join(shown)
    assert any("adversary  data" in line for line in shown) is apart
    assert {"adjoint-matching", "(Holm)", "cifar10"} <= words(shown)
    for one in found:
        interval = one.difference.interval
        assert {f"{interval.mean:+.3f}", f"[{interval.low:+.3f},", f"{interval.high:+.3f}]"} <= words(shown)
        assert f"{one.p_corrected:.2g}" in words(shown)


def test_a_sentence_breaks_between_words_on_a_terminal_and_nowhere_in_a_pipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sentence = "guarantee of mjp: " + "hides the places of the masked patches " * 5
    say(sentence.strip())
    assert capsys.readouterr().out == f"{sentence.strip()}\n"
    terminal = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    monkeypatch.setattr("privbench.cli.console.results_console", lambda: terminal)
    say(sentence)
    assert isinstance(terminal.file, io.StringIO)
    shown = terminal.file.getvalue()
    assert words(shown.splitlines()) == set(sentence.split())
    assert max(map(len, shown.splitlines())) <= 80
