"""`privbench site` writes a leaderboard with rows that are verified or reported, a table, and a guide that names its checks."""

import csv
from collections.abc import Callable
from pathlib import Path

import yaml
from click.testing import Result

from privbench.core import Record
from privbench.store.layout import find_records

Cli = Callable[..., Result]
FORM = Path(__file__).parents[2] / ".github" / "ISSUE_TEMPLATE" / "new-row.yml"


def test_rows_are_verified_or_reported(finished: Path, privbench: Cli, tmp_path: Path) -> None:
    first, second = (Record.load(path).case_id for path in find_records(finished))
    (tmp_path / "verified.txt").write_text(f"# computed again\n{first}  # on two machines\n", encoding="utf-8")
    done = privbench("site", "out", "-o", "site", "--verified", "verified.txt")
    assert done.exit_code == 0, done.output
    page = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    rows = {case: page.partition(f'data-id="{case}"')[2].partition("</tr>")[0] for case in (first, second)}
    assert 'data-value="verified"' in rows[first]
    assert 'data-value="reported"' in rows[second]
    with (tmp_path / "site" / "leaderboard.csv").open(encoding="utf-8", newline="") as file:
        assert {row["case"] for row in csv.DictReader(file)} == {first, second}
    guide = (tmp_path / "site" / "submit.html").read_text(encoding="utf-8")
    assert "privbench verify" in guide
    assert "http" not in guide
    assert (tmp_path / "site" / ".nojekyll").exists()


def test_a_line_that_is_no_hash_is_refused_in_one_line(small_run: Cli, privbench: Cli, tmp_path: Path) -> None:
    assert small_run("--defense", "none").exit_code == 0
    (tmp_path / "verified.txt").write_text("all of them\n", encoding="utf-8")
    answer = privbench("site", "out", "--verified", "verified.txt")
    assert answer.exit_code == 2
    assert "line 1 of verified.txt is no hash of a case ('all of them')" in answer.stderr
    assert not (tmp_path / "site").exists()


def test_the_form_asks_for_what_the_guide_names() -> None:
    form = yaml.safe_load(FORM.read_text(encoding="utf-8"))
    asked = {part["id"]: part for part in form["body"] if "id" in part}
    assert {"package", "record", "case", "verify", "conformance"} <= asked.keys()
    assert all(part["validations"]["required"] for part in asked.values() if part["type"] != "checkboxes")
