"""docs/reference/models.md says what the program says: its columns, its families, and a row of each kind asked again."""

import re
import warnings
from pathlib import Path

import pytest
import timm

from benchmarks.model_table import ATTACK_NAMES, DEFENSE_NAMES, answer, families, transformers

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "models.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.partition("## No victims")[0].splitlines() if re.match(r"\| \d+:", line)]


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.split("|")[2:-1]]


def named(row: str) -> list[str]:
    return re.findall(r"`([^`]+)`", row)


def test_the_page_has_the_columns_of_the_program() -> None:
    assert f"| architectures | {' | '.join([*DEFENSE_NAMES, *ATTACK_NAMES])} |" in PAGE
    assert ROWS
    assert all(len(cells(row)) == len(DEFENSE_NAMES) + len(ATTACK_NAMES) for row in ROWS)


@pytest.mark.skipif(f"timm {timm.__version__} has" not in PAGE, reason="the page was made with another version of timm")
def test_the_page_is_about_the_architectures_of_this_timm() -> None:
    names = transformers()
    assert f"timm {timm.__version__} has {len(names)} architectures" in PAGE
    asked = [members[0] for members in families(names).values()]
    assert f"{len(asked)} of them were asked" in PAGE
    counted = [int(re.findall(r"\| (\d+):", row)[0]) for row in ROWS]
    refused = len(re.findall(r"^\| `", PAGE.partition("## No victims")[2], re.MULTILINE))
    assert refused or sum(counted) == len(asked)
    assert {name for row in ROWS for name in named(row)} <= set(asked)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: named(row)[-1])
def test_a_row_is_what_one_of_its_architectures_says_today(row: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        said = answer(named(row)[-1])
    assert cells(row) == ["" if line else "yes" for line in (*said.defenses.values(), *said.attacks.values())]
