"""The result tables of `privbench run`.

What computes is imported by the table that is about it: a record is shown without torch.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from privbench.analysis.flags import FLAG_MEANINGS, is_lower_bound, marked
from privbench.analysis.score_text import (
    ABSENT,
    METRICS,
    best_of_batches,
    bounds_text,
    interval_text,
    mean_score,
    share_text,
    value_text,
)
from privbench.core import Calibration, Record, UtilityReport
from privbench.core.flags import ENSEMBLE_FLAGS, NOT_EXPLAINED
from privbench.core.labels import defense_label

if TYPE_CHECKING:
    from privbench.analysis.compare import Comparison
    from privbench.analysis.external import Scores
    from privbench.runner.verify import Check

__all__ = [
    "WIDE",
    "calibration_table",
    "case_table",
    "checks_table",
    "comparisons_table",
    "defenses_table",
    "footnotes",
    "members_table",
    "score_footnotes",
    "score_table",
    "servers_said",
    "utility_table",
]

WIDE = 110
"""Columns of a terminal on which every value has a column of its own."""


def case_table(record: Record, label: str) -> Table:
    """One row per image, their mean and its interval.

    Args:
        record: A finished case.
        label: What to call its defense.
    """
    n = len(record.images)
    table = _table(_title(record, label))
    table.add_column("image", no_wrap=True)
    batches = record.case.batch_size > 1
    _numbers(table, *METRICS.values(), "explained", *(["energy"] if batches else []), "seconds")
    if record.members:
        table.add_column("won by")
    for place, image in enumerate(record.images):
        table.add_row(
            image.image + (" (failed)" if image.failure else ""),
            *(value_text(name, image.scores.get(name)) for name in METRICS),
            share_text([image]),
            *([ABSENT if image.energy is None else f"{image.energy:.3f}"] if batches else []),
            f"{image.seconds:.1f}",
            *([image.won_by or ABSENT] if record.members else []),
            end_section=place == n - 1,
        )
    summary = {name: record.summary.get(name) for name in METRICS}
    means = (value_text(name, interval.mean if interval else None) for name, interval in summary.items())
    blank = [""] if batches else []
    table.add_row(f"mean, n = {n}", *means, share_text(record.images), *blank, f"{_seconds(record):.1f}", style="bold")
    table.add_row("95 % interval", *(bounds_text(name, interval) for name, interval in summary.items()), "", *blank, "")
    if batches:
        best = best_of_batches(record.images)
        table.add_row(
            f"best of each batch, n = {len(best)}",
            *(value_text(name, mean_score(best, name)) for name in METRICS),
            share_text(best),
            *blank,
            "",
        )
    return table


def members_table(record: Record, label: str) -> Table:
    """One row per attack of an ensemble, in the order in which they were run.

    Args:
        record: A finished case of an ensemble.
        label: What to call its defense.
    """
    table = _table(f"{label}: the attacks of {record.case.attack.name}, each on what was not recovered before it")
    several = len({member.seed for member in record.members}) > 1
    for heading in ("attack", "adversary", *(["seed"] if several else [])):
        table.add_column(heading)
    for heading in ("images", "won", METRICS["psnr"], "seconds"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for member in record.members:
        words = [member.attack, member.adversary, *([str(member.seed)] if several else [])]
        if member.case_id is None:
            table.add_row(*words, "0", "", "", "", "does not apply" if member.skipped else "nothing left")
        else:
            numbers = (str(member.images), str(member.won), value_text("psnr", member.psnr), f"{member.seconds:.1f}")
            table.add_row(*words, *numbers, "")
    return table


def utility_table(utility: UtilityReport, label: str) -> Table:
    """One row per measure: value and 95 % interval.

    Args:
        utility: What was measured.
        label: What to call the defense.
    """
    table = _table(f"{label}, {utility.victim.model.name}, n = {utility.images} test images of {utility.dataset}")
    table.add_column("measure")
    table.add_column("value", justify="right")
    table.add_column("95 % interval", justify="right")
    attack = f"{255 * utility.epsilon:.3g}/255"
    shares = {
        "accuracy": utility.accuracy,
        "accuracy under the defense": utility.defended_accuracy,
        f"accuracy, {utility.jigsaw}": utility.jigsaw_accuracy,
        "consistency, same": utility.consistency,
        f"accuracy, FGSM {attack}": utility.fgsm_accuracy,
        f"accuracy, PGD {attack}": utility.pgd_accuracy,
    }
    for name, interval in shares.items():
        if interval is not None:
            table.add_row(name, f"{interval.mean:.1%}", f"[{interval.low:.1%}, {interval.high:.1%}]")
    if utility.mean_corrupted_accuracy is not None:
        table.add_row("accuracy, corrupted", f"{utility.mean_corrupted_accuracy:.1%}", "")
    if utility.difference_norm is not None:
        norm = utility.difference_norm
        table.add_row("difference of features", f"{norm.mean:.3f}", f"[{norm.low:.3f}, {norm.high:.3f}]")
    interval = utility.calibration_interval
    bounds = "" if interval is None else f"[{interval.low:.3f}, {interval.high:.3f}] over {utility.draws} draws"
    table.add_row("calibration error", f"{utility.calibration_error:.3f}", bounds)
    numbers = {
        "RMS calibration error": utility.rms_calibration_error,
        "AURRA": utility.aurra,
        f"AUPR, {utility.unknown} as unknown": utility.aupr,
        "position error, patches": utility.position_error,
        "position error, in the sequence": utility.sequence_position_error,
        "position error, pairs": utility.pairwise_position_error,
        "position error, pairs in the sequence": utility.pairwise_sequence_error,
    }
    for name, value in numbers.items():
        if value is not None:
            table.add_row(name, f"{value:.3f}", "")
    return table


def score_table(scored: "Scores") -> Table:
    """One row per picture of another tool, their mean and its interval.

    Args:
        scored: The scores.
    """
    n = len(scored.names)
    table = _table(f"{n} reconstructions, {scored.pixels} pixels")
    table.add_column("original")
    table.add_column("reconstruction")
    for heading in METRICS.values():
        table.add_column(heading, justify="right")
    for place, (name, other, scores) in enumerate(zip(scored.names, scored.matched, scored.scores, strict=True)):
        table.add_row(name, other, *(value_text(metric, scores.get(metric)) for metric in METRICS), end_section=place == n - 1)
    summary = {metric: scored.summary.get(metric) for metric in METRICS}
    means = (value_text(metric, interval.mean if interval else None) for metric, interval in summary.items())
    table.add_row(f"mean, n = {n}", "", *means, style="bold")
    table.add_row("95 % interval", "", *(bounds_text(metric, interval) for metric, interval in summary.items()))
    return table


def score_footnotes(scored: "Scores") -> list[str]:
    """What the reader of that table must know, one line each."""
    missing = [f"{METRICS[name]}: n/a, {reason}" for name, reason in scored.unavailable.items() if name in METRICS]
    return [*missing, *scored.remarks]


def calibration_table(calibration: Calibration) -> Table:
    """One row per picture that nobody reconstructed.

    Args:
        calibration: Their scores.
    """
    from privbench.scoring import CALIBRATION_ROWS

    n = len(calibration.data.indices)
    table = _table(
        f"calibration, {calibration.data.source}, {calibration.image_size} pixels; mean [95 % interval] over n = {n}"
    )
    table.add_column("instead of a reconstruction")
    for heading in METRICS.values():
        table.add_column(heading, justify="right")
    for name, row in calibration.rows.items():
        label = f"{name}: {CALIBRATION_ROWS[name]}" if name in CALIBRATION_ROWS else name
        table.add_row(label, *(interval_text(metric, row.get(metric)) for metric in METRICS))
    return table


def comparisons_table(comparisons: "Sequence[Comparison]", metric: str, baseline: str, *, width: int = WIDE) -> Table:
    """One row per defense and attack: the paired difference from the baseline.

    Args:
        comparisons: What was compared.
        metric: Whose differences.
        baseline: The defense that they are from.
        width: Columns of the terminal; where there are few, attack, adversary and data share a cell, and so do difference and
            interval.
    """
    from privbench.analysis.compare import setting_notes
    from privbench.scoring import PAIRED_TEST

    table = _table(f"{METRICS.get(metric, metric)}, difference from {baseline} on the same images; {PAIRED_TEST}")
    narrow = width < WIDE
    table.add_column("defense", overflow="fold", min_width=17)
    for heading in ["attack,\nadversary, data"] if narrow else ["attack", "adversary", "data"]:
        table.add_column(heading, no_wrap=narrow, overflow="fold")
    _numbers(table, *(["difference, 95 % interval"] if narrow else ["difference", "95 % interval"]), "p", "p (Holm)", "n")
    for one, note in zip(comparisons, setting_notes(comparisons), strict=True):
        case, interval = one.record.case, one.difference.interval
        label = marked(defense_label(case), one.record.flags)
        data = Path(case.data.source).name + (f", {note}" if note else "")
        what = [case.attack.name, case.threat_model.adversary, data]
        value = [f"{interval.mean:+.3f}", f"[{interval.low:+.3f}, {interval.high:+.3f}]"]
        table.add_row(
            *([_breakable(label), f"{what[0]}\n{what[1]}, {what[2]}"] if narrow else [label, *what]),
            *(["\n".join(value)] if narrow else value),
            f"{one.difference.p:.2g}",
            f"{one.p_corrected:.2g}",
            str(interval.n),
        )
    return table


def checks_table(record: Record, checks: "Sequence[Check]", label: str) -> Table:
    """One row per metric: recorded, computed again, and whether that agrees.

    Args:
        record: The record that was verified.
        checks: What came out.
        label: What to call its defense.
    """
    from privbench.runner.verify import CAP

    table = _table(_title(record, label))
    for heading in ("metric", "recorded", "now", "difference", "tolerance", ""):
        table.add_column(heading, justify="left" if heading in {"metric", ""} else "right")
    words = {True: "holds", False: "differs", None: ABSENT}
    for check in checks:
        difference = ABSENT if check.computed is None else f"{check.computed - check.recorded:+.4f}"
        both_high = check.metric.startswith("psnr") and min(check.recorded, check.computed or 0) > CAP
        table.add_row(
            check.metric,
            f"{check.recorded:.4f}",
            ABSENT if check.computed is None else f"{check.computed:.4f}",
            difference,
            f"both above {CAP:.0f}" if both_high else f"{check.tolerance:.3g}",
            words[check.holds],
        )
    return table


def defenses_table(records: Sequence[Record], labels: Sequence[str], *, width: int = WIDE) -> Table:
    """One row per defense: means with their intervals.

    Args:
        records: Finished cases.
        labels: What to call the defense of each.
        width: Columns of the terminal; where there are few, intervals stand below their means and seconds are left out.
    """
    if width < WIDE:
        return _narrow_defenses(records, labels)
    first = records[0]
    table = _table(f"{_title(first, None)}; mean [95 % interval] over n = {len(first.images)} images")
    table.add_column("defense", overflow="fold")
    _numbers(table, *METRICS.values(), "explained", "s/image", "accuracy")
    for record, label in zip(records, labels, strict=True):
        accuracy = record.victim_accuracy
        table.add_row(
            marked(label, record.flags),
            *(interval_text(name, record.summary.get(name)) for name in METRICS),
            share_text(record.images),
            f"{_seconds(record):.1f}",
            ABSENT if accuracy is None else f"{100 * accuracy:.1f} % (n = {record.victim_accuracy_images or ABSENT})",
        )
    return table


def _narrow_defenses(records: Sequence[Record], labels: Sequence[str]) -> Table:
    """Columns as wide as what stands in them, 80 in all."""
    first = records[0]
    table = _table(f"{_title(first, None)}; mean [95 % interval] over n = {len(first.images)} images")
    table.add_column("defense", overflow="fold", max_width=16)
    for name, heading in METRICS.items():
        table.add_column(heading, justify="right", width={"lpips": 7, "psnr_patch": 10}.get(name, 8))
    for heading in ("explained", "accuracy"):
        table.add_column(heading, justify="right", width=len(heading))
    for record, label in zip(records, labels, strict=True):
        accuracy = record.victim_accuracy
        table.add_row(
            _breakable(marked(label, record.flags)),
            *(interval_text(name, record.summary.get(name)) for name in METRICS),
            share_text(record.images),
            ABSENT if accuracy is None else f"{100 * accuracy:.1f} %",
        )
    return table


def _breakable(label: str) -> str:
    """The label of a defense that may be broken between its parameters."""
    return label.replace(":", ": ", 1).replace(",", ", ")


def servers_said(records: Sequence[Record], labels: Sequence[str]) -> list[str]:
    """A line for each record of a malicious server: what its changes cost the model, and what a client could notice."""
    lines = []
    for record, label in zip(records, labels, strict=True):
        if record.case.server is None or record.suspicion is None:
            continue
        accuracy = "has no public images"
        if record.manipulated_accuracy is not None:
            accuracy = (
                f"sent a model that classifies {100 * record.manipulated_accuracy:.1f} % of "
                f"{record.manipulated_accuracy_images} public images"
            )
        noticed = f"a client's suspicion of its weights: {record.suspicion:.2f} of 1"
        lines.append(f"{label}: server {record.case.server} {accuracy}; {noticed}")
    return lines


def footnotes(records: Sequence[Record], labels: Sequence[str]) -> list[str]:
    """What the reader of the table must know: metrics that are missing, and attacks that failed; one line each."""
    lines: dict[str, None] = {}
    for record in records:
        for name, reason in record.unavailable.items():
            if name in METRICS:
                lines[f"{METRICS[name]}: n/a, {reason}; then run again with --force"] = None
    for record, label in zip(records, labels, strict=True):
        for member in record.members:
            if member.skipped:
                lines[f"{member.attack} ({member.adversary}) not run: {member.skipped}"] = None
        for flag in record.flags:
            if flag in ENSEMBLE_FLAGS or flag == NOT_EXPLAINED or is_lower_bound([flag]):
                lines[f"{label}: {flag}: {FLAG_MEANINGS[flag]}"] = None
        failed = [image for image in record.images if image.failure]
        if failed:
            share = f"{len(failed)} of {len(record.images)} images"
            lines[f"{label}: the attack failed on {share}, which get the worst scores: {failed[0].failure}"] = None
    return list(lines)


def _table(title: str) -> Table:
    return Table(
        title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False, collapse_padding=True
    )


def _numbers(table: Table, *headings: str) -> None:
    """Adds columns of numbers, which are never cut: as wide as the longest word of their heading, they break between words."""
    for heading in headings:
        table.add_column(heading, justify="right", overflow="fold", min_width=max(map(len, heading.split())))


def _title(record: Record, label: str | None) -> str:
    case = record.case
    words = [label, case.attack.name, f"{case.threat_model.adversary} adversary", f"labels {case.threat_model.labels}"]
    words += [case.victim.model.name, f"batch {case.batch_size}"]
    words += [f"client trains by {case.local}" if case.local else None, f"sent: {case.trains}" if case.trains else None]
    words.append(f"server {case.server}" if case.server else None)
    return ", ".join(word for word in words if word)


def _seconds(record: Record) -> float:
    return sum(image.seconds for image in record.images) / len(record.images)
