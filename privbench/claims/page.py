"""Judged claims as Markdown: claim and verdict of each in a line, below them the evidence, the limits and the commands.

Equal files give equal bytes. Paths stand as they were given, so that the commands work where the page was made.
"""

import shlex
import textwrap
from collections.abc import Sequence
from pathlib import Path

from privbench.claims.benchmark_tables import SEEDS, TableComparison
from privbench.claims.evidence import Evidence
from privbench.claims.hypotheses import Comparison, HypothesesFile, read_hypotheses
from privbench.claims.verdicts import SMALLEST, Finding, Judgement, Measured, judge
from privbench.core import METRICS, Interval, Metric, UtilityReport
from privbench.store.base import Store
from privbench.store.files import atomic_write, refuse_folder

__all__ = ["claims_page", "write_claims"]

_WIDTH = 120
"""Columns of a line of prose."""

AnyComparison = Comparison | TableComparison


_RULE = f"""\
The difference of the two sides of a comparison is taken image by image and has a 95 %
bootstrap interval. A comparison holds where the whole interval lies beyond its margin, does not hold where the whole
interval lies on the other side, and is inconclusive otherwise and with fewer than {SMALLEST} images. A claim holds where all
its comparisons hold, and does not hold where one does not; it holds only for unaware attackers where it does not hold for
those who know the defense, and holds for others. Where several attacks are named, the highest leakage of each image counts; one
that is missing leaves open what it could change at most. Utility reports are of victims trained by one recipe, but for the
defense, and of the same test images, whose outcomes the files do not hold: the interval of their difference is that of
independent samples, wider than a paired one would be. A measure that is one number for all images is compared by its sign, and
of layers that are random at inference by its interval over draws. Where victims were trained by several seeds, they are paired
by seed, and so may be the rows of a benchmark's table (else by image): then the interval is Student's over training runs, of
which fewer than {SEEDS} decide nothing.
"""
"""How to read a verdict."""


def write_claims(definitions: Path, stores: Sequence[Store], target: Path) -> list[Judgement]:
    """Judges the claims of a file by all records and utility reports of some stores, and writes the page whole or not at all.

    Args:
        definitions: A YAML file of claims.
        stores: Where to look, subfolders included.
        target: The Markdown file.

    Raises:
        UserError: The definitions or a record cannot be read, there is no such store, or the page cannot be written.
    """
    file = read_hypotheses(definitions)
    evidence = Evidence.of(stores)
    refuse_folder(target)
    judgements = [judge(hypothesis, evidence, definitions.parent) for hypothesis in file.claims]
    command = shlex.join(["privbench", "claims", _posix(definitions), *map(str, stores), "-o", _posix(target)])
    atomic_write(target, claims_page(file, judgements, evidence, command).encode())
    return judgements


def claims_page(file: HypothesesFile, judgements: Sequence[Judgement], evidence: Evidence, command: str) -> str:
    """The page.

    Args:
        file: The definitions.
        judgements: Of its claims, in order.
        evidence: What they rest on.
        command: What made the page.
    """
    reports = dict(evidence.reports)
    lines = [
        "# Claims",
        "",
        "| claim | verdict |",
        "|---|---|",
        *(f"| [{_cell(one.hypothesis.text)}](#{one.hypothesis.id}) | {_cell(_verdict_text(one))} |" for one in judgements),
        "",
        *_paragraph(
            "A claim leads to its evidence and limits. How verdicts are made, and what computes the records: at the end."
        ),
    ]
    for judgement in judgements:
        lines += _section(judgement, reports)
    lines += [
        "## How a verdict is made",
        "",
        *_paragraph(_RULE),
        "## What computes the records",
        "",
        "```sh",
        *file.commands,
        "```",
        "",
        f"This page is made by `{command}`, and never edited by hand.",
        "",
    ]
    return "\n".join(lines)


def _posix(path: Path) -> str:
    return path.as_posix()


def _line(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    return _line(text).replace("|", "\\|")


def _verdict_text(judgement: Judgement) -> str:
    reason = "" if judgement.reason is None else f" ({judgement.reason})"
    return f"**{judgement.verdict}**{reason}"


def _section(judgement: Judgement, reports: dict[str, UtilityReport]) -> list[str]:
    hypothesis = judgement.hypothesis
    lines = [
        f"## {hypothesis.id}",
        "",
        *_paragraph(f"**Claim.** {hypothesis.text} Source: {hypothesis.source}."),
        *_paragraph(f"**Verdict.** {_verdict_text(judgement)}.{_decided(judgement)}"),
    ]
    if judgement.findings:
        lines += [
            "| comparison | claimed higher | claimed lower | difference [95 %] | margin | n | verdict |",
            "|---|---|---|---|---|---|---|",
            *map(_finding_row, judgement.findings),
            "",
        ]
    lines += _paragraph(f"**Limits.** {hypothesis.limits}")
    commands = _commands(judgement.findings, reports)
    return lines + (["```sh", *commands, "```", ""] if commands else [])


def _decided(judgement: Judgement) -> str:
    """The comparison that decides, with its numbers."""
    finding = judgement.decisive
    if finding is None or finding.difference is None:
        return ""
    return f" Deciding comparison: {finding.comparison.name}, {_change(finding)}, n = {finding.difference.n}."


def _paragraph(text: str) -> list[str]:
    return [*textwrap.wrap(_line(text), _WIDTH, break_long_words=False, break_on_hyphens=False), ""]


def _finding_row(finding: Finding) -> str:
    comparison, difference = finding.comparison, finding.difference
    capped = "" if comparison.ceiling is None else f", at most {_number(comparison, comparison.ceiling)} counted"
    reason = "; ".join(filter(None, (finding.reason, finding.detail)))
    reason = f" ({reason})" if reason else ""
    cells = [
        f"{comparison.name}: {comparison.metric}{capped}",
        _side(comparison, comparison.higher.text, comparison.higher.attack, finding.higher),
        _side(comparison, comparison.lower.text, comparison.lower.attack, finding.lower),
        _change(finding),
        _number(comparison, comparison.margin),
        "" if difference is None else str(difference.n),
        f"{finding.verdict}{reason}",
    ]
    return f"| {' | '.join(map(_cell, cells))} |"


def _side(comparison: AnyComparison, text: str, attacks: Sequence[str], measured: Measured | None) -> str:
    by = f" by {', '.join(attacks)}" if attacks else ""
    return f"{text}{by}" + ("" if measured is None else f": {_number(comparison, measured.mean)}")


def _change(finding: Finding) -> str:
    if finding.difference is None:
        return ""
    comparison, difference = finding.comparison, finding.difference
    if not finding.has_interval:
        return f"{_number(comparison, difference.mean, signed=True)} [n/a]"
    return f"{_number(comparison, difference.mean, signed=True)} {_bounds(comparison, difference)}"


def _bounds(comparison: AnyComparison, interval: Interval) -> str:
    low, high = (_rounded(comparison, value, signed=True) for value in (interval.low, interval.high))
    return f"[{low}, {high}]"


def _number(comparison: AnyComparison, value: float, *, signed: bool = False) -> str:
    unit = _unit(comparison)
    return _rounded(comparison, value, signed=signed) + (f" {unit}" if unit else "")


def _rounded(comparison: AnyComparison, value: float, *, signed: bool) -> str:
    digits = 1 if _unit(comparison) == "dB" else 3
    value = round(value, digits) + 0.0  # no negative zero
    return f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"


def _unit(comparison: AnyComparison) -> str:
    if isinstance(comparison, TableComparison):
        return comparison.unit
    if comparison.measure is not None:
        return ""
    metric: Metric = METRICS.get(comparison.metric)
    return metric.unit


def _commands(findings: Sequence[Finding], reports: dict[str, UtilityReport]) -> list[str]:
    """What computes the cases and utility reports of a claim again, each once."""
    sides = (side for finding in findings for side in (finding.higher, finding.lower) if side is not None)
    used = dict.fromkeys(name for side in sides for name in side.used)
    written = dict.fromkeys(one.comparison.command for one in findings if isinstance(one.comparison, TableComparison))
    return [*(_again(name, reports) for name in used), *written]


def _again(name: str, reports: dict[str, UtilityReport]) -> str:
    if name not in reports:
        return shlex.join(["privbench", "run", "--config", name])
    utility = reports[name]
    weights, measures = utility.victim.weights, utility.measures
    command = shlex.join(
        [
            *("privbench", "evaluate", "--defense", "+".join(map(str, utility.defense))),
            *("--model", utility.victim.model.name),
            *(() if weights == "embedded" else ("--weights", Path(weights).name)),
            *("--data", utility.dataset, "--limit", str(utility.images), "--seed", str(utility.seed)),
            *("--measure", ",".join(measures) or "accuracy", "--draws", str(utility.draws)),
            *(("--jigsaw", utility.jigsaw) if "jigsaw" in measures else ()),
            *(("--epsilon", str(utility.epsilon)) if "attacks" in measures else ()),
            *(("--unknown", utility.unknown) if utility.unknown else ()),
        ]
    )
    return command + _which_weights(utility)


def _which_weights(utility: UtilityReport) -> str:
    """A comment of the shell: victims of several seeds have files of one name."""
    sha256, training = utility.victim.weights_sha256, utility.training
    if utility.victim.weights == "embedded" or sha256 is None:
        return ""
    trained = "" if training is None else f", trained for {training.epochs} epochs with seed {training.recipe.get('seed')}"
    return f"  # weights of SHA-256 {sha256[:12]}{trained}"
