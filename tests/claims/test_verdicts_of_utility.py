"""Claims about what a victim can still do are judged from utility reports made by hand."""

from typing import Any

import pytest

from privbench.core import (
    Interval,
    Training,
    UserError,
    UtilityReport,
    resolve_defense,
)
from tests.claims.judging import hypothesis, judged


def measured(utility: UtilityReport, defense: str, **measures: Any) -> UtilityReport:
    return utility.model_copy(update={"defense": resolve_defense(defense), **measures})


def test_shares_are_compared_with_the_interval_of_their_difference(utility: UtilityReport) -> None:
    first, second = Interval(mean=0.7, low=0.67, high=0.73, n=1000), Interval(mean=0.6, low=0.56, high=0.64, n=500)
    both = [measured(utility, "none", accuracy=first), measured(utility, "mjp", accuracy=second, images=500)]
    comparison = {"metric": "utility.accuracy", "higher": {}, "lower": {"defense": "mjp"}}
    (finding,) = judged(hypothesis({**comparison, "margin": 0.04}), reports=both).findings
    assert finding.difference is not None
    assert finding.difference.mean == pytest.approx(0.1)
    assert finding.difference.low == pytest.approx(0.1 - 0.05)
    assert finding.difference.high == pytest.approx(0.1 + 0.05)
    assert finding.difference.n == 500
    verdicts = [judged(hypothesis({**comparison, "margin": margin}), reports=both).verdict for margin in (0.04, 0.06, 0.16)]
    assert verdicts == ["holds", "inconclusive", "does not hold"]


def test_numbers_without_an_interval_decide_only_where_the_definition_says_so(utility: UtilityReport) -> None:
    both = [measured(utility, "none", calibration_error=0.05), measured(utility, "mjp", calibration_error=0.03)]
    comparison = {"metric": "utility.calibration_error", "higher": {}, "lower": {"defense": "mjp"}}
    silent = judged(hypothesis(comparison), reports=both)
    assert (silent.verdict, silent.reason) == ("inconclusive", "the measure has no interval")
    verdicts = [judged(hypothesis({**comparison, "by_sign": True, "margin": m}), reports=both).verdict for m in (0.01, 0.03)]
    assert verdicts == ["holds", "does not hold"]


def test_a_number_beside_an_interval_over_draws_decides_only_outside_of_it(utility: UtilityReport) -> None:
    comparison = {"metric": "utility.calibration_error", "by_sign": True, "higher": {}, "lower": {"defense": "mjp"}}

    def found(low: float, high: float) -> tuple[str, str | None, list[float]]:
        drawn = Interval(mean=0.03, low=low, high=high, n=4)
        both = [
            measured(utility, "none", calibration_error=0.04),
            measured(utility, "mjp", calibration_error=0.03, calibration_interval=drawn),
        ]
        judgement = judged(hypothesis(comparison), reports=both)
        difference = judgement.findings[0].difference
        assert difference is not None
        return judgement.verdict, judgement.reason, [difference.low, difference.high]

    verdict, reason, bounds = found(0.02, 0.035)
    assert (verdict, reason) == ("holds", None)
    assert bounds == pytest.approx([0.005, 0.02])
    verdict, reason, bounds = found(0.02, 0.045)
    assert (verdict, reason) == ("inconclusive", "the interval over draws contains the margin")
    assert bounds == pytest.approx([-0.005, 0.02])


def test_two_errors_of_which_neither_is_below_a_blind_guess_decide_nothing(utility: UtilityReport) -> None:
    comparison = {
        "metric": "utility.position_error",
        "by_sign": True,
        "uninformed": 2.0,
        "higher": {},
        "lower": {"defense": "mjp"},
    }

    def verdict(first: float, second: float) -> tuple[str, str | None]:
        both = [measured(utility, "none", position_error=first), measured(utility, "mjp", position_error=second)]
        found = judged(hypothesis(comparison), reports=both)
        return found.verdict, found.reason

    assert verdict(2.28, 2.0) == ("inconclusive", "neither is below 2, what a guess that knows nothing scores")
    assert verdict(2.28, 1.99) == ("holds", None)
    assert verdict(1.2, 2.3) == ("does not hold", None)


def test_a_report_that_is_missing_or_lacks_the_measure_is_not_measured(utility: UtilityReport) -> None:
    comparison = {"metric": "utility.position_error", "higher": {}, "lower": {"defense": "no-pe"}}
    found = judged(hypothesis(comparison), reports=[utility])
    assert (found.verdict, found.reason) == ("not measured", "utility reports are missing")
    assert found.findings[0].detail == "no utility report of no-pe"
    found = judged(hypothesis(comparison), reports=[utility, measured(utility, "no-pe", position_error=None)])
    assert found.findings[0].detail == "no-pe has no position_error"


def test_of_two_reports_of_the_same_weights_the_one_of_most_images_counts_and_other_weights_must_be_named(
    utility: UtilityReport,
) -> None:
    few = measured(utility, "none", images=100, accuracy=Interval(mean=0.1, low=0.1, high=0.1, n=100))
    mjp = measured(utility, "mjp", accuracy=Interval(mean=0.4, low=0.39, high=0.41, n=1000))
    comparison = {"metric": "utility.accuracy", "higher": {}, "lower": {"defense": "mjp"}}
    assert judged(hypothesis(comparison), reports=[few, utility, mjp]).verdict == "holds"
    victim = utility.victim.model_copy(update={"weights": "short.safetensors", "weights_sha256": "0" * 64})
    other = measured(few, "none", victim=victim)
    assert judged(hypothesis(comparison), reports=[utility, other, mjp]).verdict == "holds"
    named = {**comparison, "higher": {"weights": "short.safetensors"}}
    assert judged(hypothesis(named), reports=[utility, other, mjp]).verdict == "does not hold"
    with pytest.raises(UserError, match=r"several weights of none, weights any \(embedded, short.safetensors\); name one"):
        judged(hypothesis({**comparison, "higher": {"weights": "any"}}), reports=[utility, other, mjp])


def test_reports_compare_only_where_the_victims_were_trained_by_one_recipe(utility: UtilityReport) -> None:
    def trained(defense: str, epochs: int | None, error: float) -> UtilityReport:
        victim = utility.victim.model_copy(update={"weights": f"{epochs}.safetensors", "weights_sha256": f"{epochs}{defense}"})
        training = epochs and Training(defense=defense, dataset="cifar10", epochs=epochs, recipe={"images": 100})
        return measured(utility, defense, calibration_error=error, training=training or None, victim=victim)

    comparison = {
        "metric": "utility.calibration_error",
        "by_sign": True,
        "higher": {"weights": "any"},
        "lower": {"defense": "mjp", "weights": "any"},
    }
    long, short, unknown = trained("none", 10, 0.01), trained("none", 2, 0.05), trained("none", None, 0.01)
    mjp = trained("mjp", 2, 0.03)
    found = judged(hypothesis(comparison), reports=[long, short, unknown, mjp])
    assert found.verdict == "holds"
    assert found.findings[0].difference is not None
    assert found.findings[0].difference.mean == pytest.approx(0.02)
    found = judged(hypothesis(comparison), reports=[long, unknown, mjp])
    assert (found.verdict, found.reason) == ("not measured", "the victims were trained by different recipes")
    detail = "none, weights any by 10 epochs of 100 images, an unknown one; mjp, weights any by 2 epochs of 100 images"
    assert found.findings[0].detail == detail


def test_victims_of_several_seeds_are_paired_by_seed_and_two_seeds_decide_nothing(utility: UtilityReport) -> None:
    def run(defense: str, seed: int, accuracy: float, images: int = 1000) -> UtilityReport:
        training = Training(defense=defense, dataset="made", epochs=5, recipe={"seed": seed})
        victim = utility.victim.model_copy(update={"weights": "short.safetensors", "weights_sha256": f"{defense}{seed}"})
        share = Interval(mean=accuracy, low=accuracy - 0.03, high=accuracy + 0.03, n=images)
        return measured(utility, defense, training=training, victim=victim, accuracy=share, images=images)

    # Each seed is 1 to 3 points better without: less than the interval over images of either.
    runs = [
        run(name, seed, 0.6 + 0.05 * seed - cost)
        for seed in range(3)
        for name, cost in (("none", 0.0), ("mjp", 0.01 * (seed + 1)))
    ]
    named = {"weights": "short.safetensors"}
    claim = {"metric": "utility.accuracy", "higher": named, "lower": {**named, "defense": "mjp"}}
    (finding,) = judged(hypothesis(claim), reports=[*runs, run("none", 0, 0.1, images=10)]).findings
    assert finding.difference is not None
    half = 4.3027 * 0.01 / 3**0.5  # Student's 97.5 % quantile at two degrees of freedom
    values = (finding.difference.mean, finding.difference.low, finding.difference.high, finding.difference.n)
    assert values == pytest.approx((0.02, 0.02 - half, 0.02 + half, 3), abs=1e-5)
    assert finding.verdict == "inconclusive"
    assert judged(hypothesis({**claim, "margin": -0.01}), reports=runs).verdict == "holds"
    assert judged(hypothesis({**claim, "margin": -0.01}), reports=runs[:4]).reason == "only 2 of at least 3 seeds"
    assert judged(hypothesis({**claim, "margin": -0.01}), reports=runs[:2]).verdict == "inconclusive"
    # One seed of one side is compared with the same seed of the other alone.
    (single,) = judged(hypothesis(claim), reports=runs[:3]).findings
    assert single.difference is not None
    assert single.difference.mean == pytest.approx(0.01)
