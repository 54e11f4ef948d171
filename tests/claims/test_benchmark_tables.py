"""Claims over rows of a table: pairs, intervals over images and over seeds, and what is wrong with a table in one line."""

from pathlib import Path
from typing import Any

import pytest

from privbench.claims.benchmark_tables import TableComparison, table_difference
from privbench.claims.evidence import Evidence
from privbench.claims.hypotheses import Hypothesis
from privbench.claims.page import claims_page
from privbench.claims.verdicts import Judgement, judge
from privbench.core import UserError

NOTHING = Evidence((), (), ())


def comparison(**changes: Any) -> TableComparison:
    fields = {
        "name": "with and without",
        "table": "rows.csv",
        "command": "python -m benchmarks.made -o rows.csv",
        "metric": "accuracy",
        "pairs": "seed",
        "over": "seeds",
        "higher": {"rows": {"way": "with"}},
        "lower": {"rows": {"way": "without"}},
    }
    return TableComparison.model_validate(fields | changes)


def judged(folder: Path, one: TableComparison) -> Judgement:
    hypothesis = Hypothesis.model_validate({"id": "a", "text": "A", "source": "S", "limits": "L", "comparisons": [one]})
    return judge(hypothesis, NOTHING, folder)


def table(folder: Path, above: list[float], below: list[float]) -> None:
    rows = [
        f"{way},{seed},{value}" for way, values in (("with", above), ("without", below)) for seed, value in enumerate(values)
    ]
    (folder / "rows.csv").write_text("\n".join(["way,seed,accuracy", *rows]) + "\n", encoding="utf-8")


def test_seeds_are_paired_and_the_interval_is_students(tmp_path: Path) -> None:
    # What the seeds share takes no part; the differences are 1, 2 and 3, whose half width is 4.302653 / sqrt(3).
    table(tmp_path, [11, 52, 93], [10, 50, 90])
    found = table_difference(comparison(), tmp_path)
    assert found is not None
    difference, above, below = found
    assert (difference.mean, difference.n, above, below) == (2, 3, 52, 50)
    assert difference.high - 2 == pytest.approx(4.302653 / 3**0.5, rel=1e-6)
    assert judged(tmp_path, comparison()).verdict == "inconclusive"
    assert judged(tmp_path, comparison(margin=-1)).verdict == "holds"
    assert judged(tmp_path, comparison(margin=5)).verdict == "does not hold"


def test_two_runs_and_fifteen_images_decide_nothing(tmp_path: Path) -> None:
    table(tmp_path, [5, 5], [1, 1])
    few = judged(tmp_path, comparison())
    assert (few.verdict, few.reason) == ("inconclusive", "only 2 of at least 3 seeds")
    table(tmp_path, [5.0] * 15, [1.0] * 15)
    assert judged(tmp_path, comparison(over="images")).verdict == "inconclusive"
    table(tmp_path, [5.0] * 16, [1.0] * 16)
    assert judged(tmp_path, comparison(over="images")).verdict == "holds"


def test_on_a_logarithmic_scale_a_difference_of_one_is_a_factor_of_ten(tmp_path: Path) -> None:
    table(tmp_path, [100, 1000, 10_000], [10, 100, 1000])
    found = table_difference(comparison(scale="log10"), tmp_path)
    assert found is not None
    assert found[0].mean == pytest.approx(1)


def test_a_table_that_is_not_there_leaves_the_claim_open_and_the_page_says_what_writes_it(tmp_path: Path) -> None:
    hypothesis = Hypothesis.model_validate(
        {"id": "a", "text": "A", "source": "S", "limits": "L", "comparisons": [comparison().model_dump()]}
    )
    open_claim = judge(hypothesis, NOTHING, tmp_path)
    assert (open_claim.verdict, open_claim.reason) == ("not measured", "rows are missing")
    table(tmp_path, [3, 4, 5], [1, 2, 3])
    closed = judge(hypothesis, NOTHING, tmp_path)
    assert closed.verdict == "holds"
    from privbench.claims.hypotheses import HypothesesFile

    page = claims_page(HypothesesFile(claims=(hypothesis,)), [closed], NOTHING, "privbench claims")
    assert "python -m benchmarks.made -o rows.csv" in page
    assert "with: 4.000 | without: 2.000 | +2.000 [+2.000, +2.000]" in page


@pytest.mark.parametrize(
    ("change", "content", "said"),
    [
        ({"metric": "speed"}, None, "has no column speed; accepted: way, seed, accuracy"),
        ({}, "way,seed,accuracy\nwith,0,1\nwith,0,2\n", "several rows of seed 0 for with"),
        ({}, "way,seed,accuracy\nwith,0,fast\n", "has 'fast' in column accuracy; accepted: a number"),
        ({"scale": "log10"}, "way,seed,accuracy\nwith,0,-1\n", "accepted: a number above 0"),
    ],
)
def test_what_is_wrong_with_a_table_is_one_line(tmp_path: Path, change: Any, content: str | None, said: str) -> None:
    table(tmp_path, [1], [1])
    if content is not None:
        (tmp_path / "rows.csv").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=said):
        table_difference(comparison(**change), tmp_path)


def test_a_side_does_not_choose_its_rows_by_what_is_compared() -> None:
    with pytest.raises(ValueError, match="choose no rows"):
        comparison(higher={"rows": {"accuracy": "1"}})
