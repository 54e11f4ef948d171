"""Claims are judged by rule: verdicts from records and utility reports made by hand, and one line for broken definitions."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from privbench.claims.evidence import Evidence
from privbench.claims.hypotheses import Comparison, Hypothesis, ResolvedSide, Side, read_hypotheses
from privbench.claims.page import write_claims
from privbench.claims.verdicts import Judgement, judge
from privbench.core import (
    ComponentSpec,
    FailedCase,
    Interval,
    LocalTraining,
    Record,
    Training,
    UserError,
    UtilityReport,
    resolve_defense,
)
from privbench.store.files import atomic_write
from privbench.store.layout import find_records
from privbench.store.places import local_folder, store_at
from privbench.sweep.study import read_study
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


# Utility reports


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


# Files


GOOD: dict[str, Any] = {
    "commands": ["privbench run"],
    "claims": [
        {
            "id": "a",
            "text": "A | B",
            "source": "S",
            "limits": "L",
            "comparisons": [
                {"name": "first", "metric": "psnr", "margin": 6, "ceiling": 40, "higher": UNDEFENDED, "lower": SHUFFLED}
            ],
        },
        {"id": "b", "text": "B", "source": "S", "limits": "L", "unmeasured": "nobody can"},
    ],
}


def written(folder: Path, content: Any) -> Path:
    path = folder / "claims.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return path


def changed(*keys: str | int, to: Any) -> dict[str, Any]:
    """The good file with one entry changed."""
    content: dict[str, Any] = yaml.safe_load(yaml.safe_dump(GOOD))
    place: Any = content
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = to
    return content


FIRST = ("claims", 0, "comparisons", 0)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("- a\n", ["holds no claims", "commands, claims"]),
        ("claims: [", ["cannot read the claims"]),
        (changed("claims", to=[]), ["claims"]),
        (changed("claims", 0, "extra", to=1), ["extra"]),
        (changed("claims", 0, "id", to="A b"), ["id", "A b"]),
        (changed("claims", 1, "id", to="a"), ["two claims have the id a"]),
        (changed("claims", 0, "comparisons", to=[]), ["claim a needs comparisons, or else the reason"]),
        (changed("claims", 0, "unmeasured", to="x"), ["claim a needs comparisons, or else the reason"]),
        (changed(*FIRST, "metric", to="psnrr"), ["unknown metric 'psnrr'", "did you mean psnr"]),
        (
            changed(*FIRST, "metric", to="utility.acuracy"),
            ["unknown measure of a utility report 'acuracy'", "did you mean accuracy"],
        ),
        (changed(*FIRST, "metric", to="utility.accuracy"), ["utility.accuracy is of utility reports, which have no attack"]),
        (changed(*FIRST, "higher", to={}), ["psnr is of attacks; name the attack of both sides"]),
        (changed(*FIRST, "lower", to={**SHUFFLED, "weights": "any"}), ["psnr is of attacks on one victim; name its weights"]),
        (changed(*FIRST, "by_sign", to=True), ["by_sign is for utility reports"]),
        (changed(*FIRST, "attacker", to="unaware"), ["the attacker is unaware and neither side has such an adversary"]),
        (changed(*FIRST, "attacker", to="clever"), ["attacker", "'unaware' or 'aware'"]),
        (changed(*FIRST, "margin", to="six"), ["margin", "'six'"]),
        (changed(*FIRST, "lower", to={**SHUFFLED, "attack": "closed"}), ["claim a, first", "unknown attack 'closed'"]),
        (changed(*FIRST, "lower", to={**SHUFFLED, "attack": "gradvit:stepz=3"}), ["claim a, first", "stepz"]),
        (changed(*FIRST, "lower", to={**SHUFFLED, "defense": "mjp:ratio=1"}), ["claim a, first", "ratio"]),
        (changed("claims", 0, "comparisons", to=[GOOD["claims"][0]["comparisons"][0]] * 2), ["two comparisons of one name"]),
    ],
)
def test_what_is_wrong_with_definitions_is_said_in_one_line(tmp_path: Path, content: Any, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        read_hypotheses(written(tmp_path, content))
    assert "\n" not in str(caught.value)
    assert [word for word in words if word not in str(caught.value)] == []


def test_a_page_has_every_claim_its_numbers_and_commands_and_equal_bytes(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    definitions = written(Path(), GOOD)
    for name, record in (make(spread(130)), make(spread(20, 0), defense="naive-shuffle")):
        atomic_write(Path(name, "record.json"), record.to_json().encode())
    write_claims(definitions, [store_at("runs")], Path("claims.md"))
    page = Path("claims.md").read_text(encoding="utf-8")
    assert "made by `privbench claims claims.yaml runs -o claims.md`" in page
    # Claim and verdict first, a line each; what they rest on, and within what limits, below.
    head, _, below = page.partition("\n## ")
    assert head.splitlines()[2:6] == [
        "| claim | verdict |",
        "|---|---|",
        "| [A \\| B](#a) | **holds** |",
        "| [B](#b) | **not measured** (nobody can) |",
    ]
    assert "**Verdict.** **holds**. Deciding comparison: first, +20.0 dB [+20.0, +20.0], n = 16." in below
    assert below.index("first: psnr") < below.index("**Limits.** L") < below.index("## b\n")
    assert below.index("## How a verdict is made") > below.index("## b\n")
    assert (
        "psnr, at most 40.0 dB counted | none, aware by closed-form: 40.0 dB | naive-shuffle, aware by closed-form: 20.0 dB"
        in page
    )
    assert page.count("privbench run --config runs/") == 2
    # A record that lies in two folders is one.
    write_claims(definitions, [store_at("runs"), store_at("runs")], Path("again.md"))
    again = Path("again.md").read_text(encoding="utf-8")
    assert again.replace("yaml runs runs -o again", "yaml runs -o claims") == page


def test_a_folder_that_is_not_there_and_a_changed_record_are_refused(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    definitions = written(Path(), GOOD)
    with pytest.raises(UserError, match="there is no folder runs"):
        write_claims(definitions, [store_at("runs")], Path("claims.md"))
    name, record = make(spread(30))
    atomic_write(Path(name, "record.json"), record.model_copy(update={"case_id": "0" * 12}).to_json().encode())
    with pytest.raises(UserError, match="was changed"):
        write_claims(definitions, [store_at("runs")], Path("claims.md"))
    assert not Path("claims.md").exists()


# The committed claims


@pytest.mark.integration
def test_every_record_that_a_claim_asks_for_is_a_case_of_a_committed_study(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("cifar10", "imagenet-val", "weights"):
        Path(name).symlink_to(shared_data / name)
    for name in ("none", "precode", "precode-64", "precode-1024"):
        Path("checkpoints", name).mkdir(parents=True)
        file_name = f"vit_mini_patch4_32.{name.partition('-')[0]}.safetensors"
        save_file({"anything": torch.zeros(1)}, Path("checkpoints", name, file_name))
    studies = [read_study(path) for path in sorted((RESULTS / "studies").glob("*.yaml"))]
    template = Record.load(find_records(local_folder(RESULTS / "front.jsonl.gz"))[0])
    records = [template.model_copy(update={"case": case}) for study in studies for case in study.cases]
    file = read_hypotheses(RESULTS / "claims.yaml")
    sides = {
        side
        for hypothesis in file.claims
        for comparison in hypothesis.comparisons
        if isinstance(comparison, Comparison) and comparison.measure is None
        for side in (comparison.higher, comparison.lower)
    }
    wanted = [ResolvedSide.of(side) for side in sides]
    missing = [
        (one.side.text, attack)
        for one, attack in ((one, attack) for one in wanted for attack in one.attacks)
        if not any(one.is_case_of(record, attack) for record in records)
    ]
    assert missing == []
