"""Tables of a Markdown page from packs."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.result_tables import main, renewed
from privbench.core import UserError

RESULTS = Path(__file__).parents[2] / "results"


@pytest.mark.integration
def test_a_spoiled_table_comes_back_and_the_text_around_stays() -> None:
    whole = (RESULTS / "README.md").read_text(encoding="utf-8")
    page = "before\n" + whole[whole.index("<!-- results/mixtures -->") : whole.index("## What the claims' study")]
    assert renewed(page, RESULTS) == (page, [])
    spoiled = page.replace("| `mixup` |", "| `mixed-up` |", 1)
    assert spoiled != page
    assert renewed(spoiled, RESULTS) == (page, ["mixtures"])


def test_a_page_without_marks_stays(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Nothing here\n", encoding="utf-8")
    result = CliRunner().invoke(main, [str(page)])
    assert result.exit_code == 0
    assert "no table changed" in result.output
    assert page.read_text(encoding="utf-8") == "# Nothing here\n"


def test_a_missing_pack_is_named_and_the_page_stays(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    text = "<!-- results/lost -->\nold\n<!-- end -->\n"
    page.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"lost\.jsonl\.gz"):
        renewed(text, tmp_path)
    result = CliRunner().invoke(main, [str(page)])
    assert result.exit_code == 2
    assert page.read_text(encoding="utf-8") == text
