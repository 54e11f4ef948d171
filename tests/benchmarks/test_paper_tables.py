"""Tables of the research notes say what the benchmarks' files hold: features, federations, noise in two training states."""

import csv
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from privbench.core import Interval
from privbench.scoring import bootstrap_interval, student_interval

ROOT = Path(__file__).parents[2]


def rows(name: str) -> list[dict[str, str]]:
    with (ROOT / "benchmarks" / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def page(name: str) -> str:
    return (ROOT / "docs" / "research" / name).read_text(encoding="utf-8")


def column(table: list[dict[str, str]], wanted: dict[str, str], name: str) -> list[float]:
    return [float(row[name]) for row in table if all(row[key] == value for key, value in wanted.items())]


def shown(interval: Interval, digits: int, sign: str = "") -> str:
    mean, low, high = (f"{value:{sign}.{digits}f}" for value in (interval.mean, interval.low, interval.high))
    return f"{mean} [{low}, {high}]"


def of_features() -> Iterator[str]:
    table = rows("features.csv")
    kinds = dict.fromkeys((row["defense"], row["attack"], row["adversary"]) for row in table)
    for defense, attack, adversary in kinds:
        wanted = {"defense": defense, "attack": attack, "adversary": adversary}
        psnr, ssim = (bootstrap_interval(column(table, wanted, name), seed=0) for name in ("psnr", "ssim"))
        yield f"| `{defense.partition(':')[0]}` | `{attack}` | {adversary} | {psnr.n} | {shown(psnr, 1)} | {shown(ssim, 3)} |"


def of_federations() -> Iterator[str]:
    table = rows("federated.csv")
    for phase in dict.fromkeys(row["phase"] for row in table):
        last = max(int(row["round"]) for row in table if row["phase"] == phase)
        plain, random = (
            column(table, {"defense": text, "phase": phase, "round": str(last)}, "accuracy")
            for text in ("none", "stochastic-layers")
        )
        difference = student_interval([100 * (one - other) for one, other in zip(random, plain, strict=True)])
        each = (", ".join(f"{100 * value:.1f}" for value in values) for values in (plain, random))
        said = shown(difference, 1, "+") if difference.n > 1 else f"{difference.mean:+.1f}, one seed"
        yield f"| {phase}, round {last} | {' | '.join(each)} | {said} |"


def of_noise() -> Iterator[str]:
    table = rows("relative-noise.csv")
    for noise, state in dict.fromkeys((row["noise"], row["state"]) for row in table):
        wanted = {"noise": noise, "state": state}
        norms, ratios, found = (column(table, wanted, name) for name in ("norm", "ratio", "psnr"))
        spans = f"{min(norms):.3g} to {max(norms):.3g} | {min(ratios):.3g} to {max(ratios):.3g}"
        yield f"| {noise} | {state} | {spans} | {shown(bootstrap_interval(found, seed=0), 1)} |"


@pytest.mark.parametrize(
    ("made", "where"),
    [(of_features, "stochastic-layers.md"), (of_federations, "stochastic-layers.md"), (of_noise, "gradient-defenses.md")],
    ids=["features", "federations", "noise"],
)
def test_a_table_is_that_of_its_file(made: Callable[[], Iterator[str]], where: str) -> None:
    lines = list(made())
    assert lines
    text = page(where).splitlines()
    assert [line for line in lines if line not in text] == []
