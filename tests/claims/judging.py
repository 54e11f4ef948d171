"""Claims and records made by hand, and the verdict on them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from privbench.claims.evidence import Evidence
from privbench.claims.hypotheses import Hypothesis, ResolvedSide, Side
from privbench.claims.verdicts import Judgement, judge
from privbench.core import (
    Record,
    UtilityReport,
)
from privbench.store.places import local_folder
from tests.analysis.records import scored

RESULTS = Path(__file__).parents[2] / "results"
UNDEFENDED = {"attack": "closed-form", "adversary": "aware"}
SHUFFLED = {**UNDEFENDED, "defense": "naive-shuffle"}


@pytest.fixture(scope="module")
def template() -> Record:
    """Sixteen images, no defense, an aware attacker with the closed form."""
    (path,) = local_folder(RESULTS / "front.jsonl.gz").glob("none--closed-form--aware--*/record.json")
    return Record.load(path)


@pytest.fixture(scope="module")
def utility() -> UtilityReport:
    (path,) = local_folder(RESULTS / "reference.jsonl.gz").glob("utility--none--*.json")
    return UtilityReport.load(path)


Make = Callable[..., tuple[str, Record]]


@pytest.fixture(scope="module")
def make(template: Record) -> Make:
    """A record with these scores of PSNR, of another attack, defense or adversary."""

    def made(scores: Sequence[float], attack: str = "closed-form", **case: Any) -> tuple[str, Record]:
        defense, adversary = case.pop("defense", "none"), case.pop("adversary", "aware")
        wanted = ResolvedSide.of(Side(attack=(attack,), defense=defense))
        threat = template.case.threat_model.model_copy(update={"adversary": adversary, **case.pop("threat", {})})
        changes = {"attack": wanted.attacks[attack], "defense": wanted.defense, "threat_model": threat, **case}
        found = template.case.model_copy(update=changes)
        record = scored(scored(template, "psnr", scores), "lpips", [1 / score for score in scores])
        return f"runs/{found.folder}", record.model_copy(update={"case": found, "case_id": found.identity})

    return made


def spread(mean: float, width: float = 1.0, n: int = 16) -> list[float]:
    """Scores around a mean; wider than a difference where it is not to be told."""
    return [mean + width * (-1) ** place for place in range(n)]


def hypothesis(*comparisons: Mapping[str, Any]) -> Hypothesis:
    plain = {"metric": "psnr", "higher": UNDEFENDED, "lower": SHUFFLED}
    numbered = [{"name": f"comparison {number}", **plain, **one} for number, one in enumerate(comparisons)]
    return Hypothesis.model_validate({"id": "c", "text": "T", "source": "S", "limits": "L", "comparisons": numbered})


def judged(
    hypothesis: Hypothesis, *records: tuple[str, Record], reports: Sequence[UtilityReport] = (), failed: Sequence[Any] = ()
) -> Judgement:
    placed = tuple((f"utility--{number}.json", one) for number, one in enumerate(reports))
    return judge(hypothesis, Evidence(tuple(records), tuple(failed), placed))
