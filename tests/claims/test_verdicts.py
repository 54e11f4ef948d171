"""Claims are judged by rule, from records made by hand: images paired, attackers told apart, the strongest attack counted."""

from typing import Any

import pytest

from privbench.claims.hypotheses import ResolvedSide, Side
from privbench.core import (
    ComponentSpec,
    FailedCase,
    Interval,
    LocalTraining,
    Record,
    UtilityReport,
    resolve_defense,
)
from privbench.core.flags import LOWER_BOUND
from tests.claims.judging import SHUFFLED, UNDEFENDED, Make, hypothesis, judged, spread

# The rule


@pytest.mark.parametrize(
    ("higher", "lower", "margin", "verdict"),
    [
        (spread(30), spread(20, 0.5), 9.0, "holds"),
        (spread(30), spread(20, 0.5), 10.0, "inconclusive"),
        (spread(30), spread(20, 0.5), 11.0, "does not hold"),
        (spread(20), spread(30, 0.5), 0.0, "does not hold"),
        (spread(20), spread(20.1, 0.5), 0.0, "inconclusive"),
        (spread(20), spread(20.5, 0.5), -1.0, "holds"),
        (spread(20, 0), spread(20, 0), 0.0, "inconclusive"),
    ],
)
def test_the_interval_and_the_margin_decide(
    make: Make, higher: list[float], lower: list[float], margin: float, verdict: str
) -> None:
    found = judged(hypothesis({"margin": margin}), make(higher), make(lower, defense="naive-shuffle"))
    assert found.verdict == verdict
    assert (found.reason is None) == (verdict != "inconclusive")
    assert found.decisive is not None
    assert found.decisive.difference is not None
    assert found.decisive.difference.n == 16
    assert found.decisive.difference.mean == pytest.approx(sum(higher) / 16 - sum(lower) / 16)


def test_images_are_paired_so_that_what_they_share_takes_no_part(make: Make) -> None:
    higher = [10.0 * place + 1 for place in range(1, 17)]
    lower = [10.0 * place for place in range(1, 17)]
    (finding,) = judged(hypothesis({"margin": 0.9}), make(higher), make(lower, defense="naive-shuffle")).findings
    assert finding.verdict == "holds"
    assert finding.difference == Interval(mean=1.0, low=1.0, high=1.0, n=16)


def test_both_sides_are_judged_on_the_images_that_they_share(make: Make) -> None:
    def elsewhere(found: tuple[str, Record]) -> tuple[str, Record]:
        name, record = found
        images = tuple(image.model_copy(update={"image": f"zz-{image.image}"}) for image in record.images)
        return f"{name}-elsewhere", record.model_copy(update={"images": images})

    undefended = (elsewhere(make(spread(38))), make(spread(30)))
    shuffled = make(spread(20), defense="naive-shuffle")
    for records in (undefended, undefended[::-1]):
        (finding,) = judged(hypothesis({}), *records, shuffled).findings
        assert finding.difference is not None
        assert finding.difference.mean == pytest.approx(10)
    apart = judged(hypothesis({}), undefended[0], shuffled)
    assert (apart.verdict, apart.reason) == ("not measured", "the two sides have no image in common")


def test_fewer_than_sixteen_images_decide_nothing(make: Make) -> None:
    for n, verdict in ((15, "inconclusive"), (16, "holds")):
        found = judged(hypothesis({}), make(spread(40, n=n)), make(spread(10), defense="naive-shuffle"))
        assert found.verdict == verdict
        assert found.reason == ("only 15 of at least 16 images" if n == 15 else None)


def test_a_metric_where_lower_is_leakier_is_compared_by_its_values(make: Make) -> None:
    records = make(spread(30)), make(spread(10), defense="naive-shuffle")
    assert judged(hypothesis({"metric": "lpips"}), *records).verdict == "does not hold"
    assert judged(hypothesis({"metric": "lpips", "higher": SHUFFLED, "lower": UNDEFENDED}), *records).verdict == "holds"


def test_all_comparisons_must_hold_and_one_refutes(make: Make) -> None:
    records = make(spread(30)), make(spread(20), defense="naive-shuffle")
    holds, fails, unclear = {"margin": 5}, {"margin": 15}, {"margin": 10}
    missing = {"lower": {**SHUFFLED, "defense": "mjp"}}
    assert judged(hypothesis(holds, holds), *records).verdict == "holds"
    refuted = judged(hypothesis(holds, missing, fails), *records)
    assert (refuted.verdict, refuted.decisive) == ("does not hold", refuted.findings[2])
    assert judged(hypothesis(holds, unclear), *records).verdict == "inconclusive"
    assert judged(hypothesis(unclear, fails), *records).verdict == "does not hold"
    assert judged(hypothesis(holds, missing), *records).verdict == "inconclusive"
    assert judged(hypothesis(missing, missing), *records).verdict == "not measured"


# Attackers


BY_ATTACKER = (
    {"attacker": "unaware", "margin": 3, "lower": {**SHUFFLED, "adversary": "unaware"}},
    {"attacker": "aware", "margin": 3},
)


@pytest.mark.parametrize(
    ("unaware", "aware", "verdict"),
    [
        (10, 10, "holds"),
        (10, 30, "holds only for unaware attackers"),
        (30, 30, "does not hold"),
        (30, 10, "does not hold"),
        (27, 30, "inconclusive"),
        (10, 27, "inconclusive"),
        (None, 30, "inconclusive"),
        (10, None, "inconclusive"),
        (None, None, "not measured"),
    ],
)
def test_who_knows_the_defense_decides_what_is_left_of_a_claim(
    make: Make, unaware: float | None, aware: float | None, verdict: str
) -> None:
    given = {"unaware": unaware, "aware": aware}
    records = [
        make(spread(mean, 0.5), defense="naive-shuffle", adversary=adversary)
        for adversary, mean in given.items()
        if mean is not None
    ]
    found = judged(hypothesis(*BY_ATTACKER), make(spread(30)), *records)
    assert found.verdict == verdict
    assert (found.reason is not None) == (verdict in {"inconclusive", "not measured"})


def test_what_has_no_attacker_counts_on_both_sides(make: Make, utility: UtilityReport) -> None:
    cheaper = utility.model_copy(update={"defense": resolve_defense("naive-shuffle")})
    accuracy = {"metric": "utility.accuracy", "margin": -0.1, "higher": {"defense": "naive-shuffle"}, "lower": {}}
    records = [make(spread(30)), *(make(spread(value), defense="naive-shuffle", adversary=adversary)
               for adversary, value in (("unaware", 10), ("aware", 30)))]  # fmt: skip
    test = hypothesis(*BY_ATTACKER, accuracy)
    assert judged(test, *records, reports=[utility, cheaper]).verdict == "holds only for unaware attackers"
    worse = cheaper.model_copy(update={"accuracy": Interval(mean=0.3, low=0.28, high=0.32, n=1000)})
    assert judged(test, *records, reports=[utility, worse]).verdict == "does not hold"


# Several attacks


TWO = {**SHUFFLED, "attack": ["closed-form", "subspace"]}


def test_the_worst_case_of_each_image_counts(make: Make) -> None:
    halves = [10.0] * 8 + [30.0] * 8
    records = [
        make(spread(30, 0.1)),
        make(halves, defense="naive-shuffle"),
        make(halves[::-1], "subspace", defense="naive-shuffle"),
    ]
    assert judged(hypothesis({"margin": 3}), *records).verdict == "holds"
    assert judged(hypothesis({"margin": 3, "lower": TWO}), *records).verdict == "does not hold"


def test_beyond_the_ceiling_nothing_more_leaks(make: Make) -> None:
    records = make(spread(130)), make(spread(60), defense="naive-shuffle")
    assert judged(hypothesis({"margin": 6}), *records).verdict == "holds"
    (finding,) = judged(hypothesis({"margin": 6, "ceiling": 40}), *records).findings
    assert finding.verdict == "does not hold"
    assert finding.higher is not None
    assert finding.higher.mean == 40


@pytest.mark.parametrize(
    ("missing_side", "lower", "ceiling", "verdict"),
    [
        ("lower", 10, None, "inconclusive"),  # an attack that is missing may break the defense
        ("lower", 39, 40, "does not hold"),  # what is broken stays broken
        ("lower", 10, 15, "does not hold"),  # no image can be told from another beyond the ceiling
        ("higher", 35, None, "inconclusive"),
        ("higher", 10, None, "holds"),
        ("higher", 35, 40, "does not hold"),
    ],
)
def test_a_missing_attack_leaves_open_what_it_could_change(
    make: Make, missing_side: str, lower: float, ceiling: float | None, verdict: str
) -> None:
    sides: dict[str, dict[str, Any]] = {"higher": UNDEFENDED, "lower": SHUFFLED}
    sides[missing_side] = {**sides[missing_side], "attack": ["closed-form", "subspace"]}
    records = make(spread(38, 0.1)), make(spread(lower, 0.1), defense="naive-shuffle")
    found = judged(hypothesis({**sides, "margin": 6, "ceiling": ceiling}), *records)
    assert found.verdict == verdict
    assert "no record of subspace on n" in found.findings[0].detail


def test_an_attacker_who_does_not_undo_a_defense_leaves_open_what_that_protects(make: Make) -> None:
    path, record = make(spread(10), defense="naive-shuffle")
    bound = path, record.model_copy(update={"flags": (LOWER_BOUND,)})
    found = judged(hypothesis({"margin": 6}), make(spread(40)), bound)
    assert found.verdict == "inconclusive"
    assert found.reason == "attackers did not undo what was done to the images; so far it holds"
    path, record = make(spread(39), defense="naive-shuffle")
    bound = path, record.model_copy(update={"flags": (LOWER_BOUND,)})
    assert judged(hypothesis({"margin": 6, "ceiling": 40}), make(spread(40)), bound).verdict == "does not hold"


def test_a_smaller_case_of_an_attack_is_missing_for_the_other_images(make: Make) -> None:
    small = make(spread(39, n=8), "subspace", defense="naive-shuffle")
    found = judged(hypothesis({"margin": 6, "lower": TWO}), make(spread(40)), make(spread(10), defense="naive-shuffle"), small)
    assert found.verdict == "inconclusive"
    assert found.reason == "records are missing; so far it holds"
    assert found.findings[0].detail == "subspace on naive-shuffle, aware has only 8 of 16 images"


def test_an_attack_on_other_images_is_missing_too(make: Make) -> None:
    path, other = make(spread(39), "subspace", defense="naive-shuffle")
    renamed = tuple(image.model_copy(update={"image": f"other-{image.image}"}) for image in other.images)
    elsewhere = path, other.model_copy(update={"images": renamed})
    found = judged(
        hypothesis({"margin": 6, "lower": TWO}), make(spread(40)), make(spread(10), defense="naive-shuffle"), elsewhere
    )
    assert (found.verdict, found.reason) == ("inconclusive", "records are missing; so far it holds")
    assert found.findings[0].detail == "subspace on naive-shuffle, aware has only 0 of 16 images"
    assert found.findings[0].difference is not None
    assert found.findings[0].difference.n == 16


def test_a_record_without_the_metric_is_missing(make: Make) -> None:
    path, record = make(spread(10), defense="naive-shuffle")
    poor = path, record.model_copy(update={"summary": {}})
    found = judged(hypothesis({}), make(spread(30)), poor)
    assert (found.verdict, found.findings[0].detail) == ("not measured", "closed-form on naive-shuffle, aware has no psnr")


def test_a_failed_case_says_why_nothing_was_measured(make: Make) -> None:
    _, record = make([], defense="naive-shuffle")
    failed = FailedCase(case_id=record.case_id, case=record.case, reason="out of memory", version="0", finished="")
    found = judged(hypothesis({}), make(spread(30)), failed=[failed])
    assert (found.verdict, found.reason) == ("not measured", "records are missing")
    assert found.findings[0].detail == "closed-form on naive-shuffle, aware failed: out of memory"


@pytest.mark.parametrize(
    ("change", "side"),
    [
        ({"adversary": "unaware"}, {}),
        ({"batch_size": 2}, {}),
        ({"seed": 1}, {}),
        ({"threat": {"labels": "known"}}, {}),
        ({"threat": {"model_mode": "train"}}, {}),
        ({"attack": "subspace"}, {}),
        ({}, {"defense": "mjp:mask_ratio=0.2"}),
        ({}, {"model": "cnn_mini_32"}),
        ({}, {"data": "photos"}),
        ({}, {"weights": "random"}),
    ],
)
def test_a_side_takes_no_case_that_differs_in_one_field(make: Make, change: dict[str, Any], side: dict[str, Any]) -> None:
    _, same = make(spread(10))
    _, other = make(spread(10), **change)
    wanted = ResolvedSide.of(Side.model_validate({**UNDEFENDED, **side}))
    assert ResolvedSide.of(Side.model_validate(UNDEFENDED)).is_case_of(same, "closed-form")
    assert not wanted.is_case_of(other, "closed-form")


@pytest.mark.parametrize("change", [{"local": LocalTraining(steps=5)}, {"server": ComponentSpec(name="imprint")}])
def test_a_side_takes_no_delta_and_no_update_for_a_malicious_server(make: Make, change: dict[str, Any]) -> None:
    _, same = make(spread(10))
    other = same.model_copy(update={"case": same.case.model_copy(update=change)})
    side = ResolvedSide.of(Side.model_validate(UNDEFENDED))
    assert side.is_case_of(same, "closed-form")
    assert not side.is_case_of(other, "closed-form")
