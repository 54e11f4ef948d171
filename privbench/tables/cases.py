"""Finished cases as tables: the images of one, members of an ensemble, several defenses; and what their reader must know."""

from collections.abc import Sequence

from rich.table import Table

from privbench.analysis.flags import FLAG_MEANINGS, is_lower_bound, marked
from privbench.analysis.score_text import (
    ABSENT,
    METRICS,
    best_of_batches,
    bounds_text,
    found_text,
    interval_text,
    mean_score,
    share_text,
    value_text,
)
from privbench.core import Record
from privbench.core.flags import EMPTY_MASK, ENSEMBLE_FLAGS, NOT_EXPLAINED
from privbench.tables.layout import WIDE, add_numbers, breakable, mean_seconds, new_table, setting_title

__all__ = ["case_table", "defenses_table", "footnotes", "members_table", "servers_said"]


def case_table(record: Record, label: str) -> Table:
    """One row per image, their mean and its interval.

    Args:
        record: A finished case.
        label: What to call its defense.
    """
    n = len(record.images)
    table = new_table(setting_title(record, label))
    table.add_column("image", no_wrap=True)
    batches = record.case.batch_size > 1
    add_numbers(table, *METRICS.values(), "explained", *(["energy", "found"] if batches else []), "seconds")
    if record.members:
        table.add_column("won by")
    for place, image in enumerate(record.images):
        table.add_row(
            image.image + (" (failed)" if image.failure else ""),
            *(value_text(name, image.scores.get(name)) for name in METRICS),
            share_text([image]),
            *([ABSENT if image.energy is None else f"{image.energy:.3f}", found_text([image])] if batches else []),
            f"{image.seconds:.1f}",
            *([image.won_by or ABSENT] if record.members else []),
            end_section=place == n - 1,
        )
    summary = {name: record.summary.get(name) for name in METRICS}
    means = (value_text(name, interval.mean if interval else None) for name, interval in summary.items())
    of_all, none = (["", found_text(record.images)], ["", ""]) if batches else ([], [])
    table.add_row(f"mean, n = {n}", *means, share_text(record.images), *of_all, f"{mean_seconds(record):.1f}", style="bold")
    table.add_row("95 % interval", *(bounds_text(name, interval) for name, interval in summary.items()), "", *none, "")
    if batches:
        best = best_of_batches(record.images)
        table.add_row(
            f"best of each batch, n = {len(best)}",
            *(value_text(name, mean_score(best, name)) for name in METRICS),
            share_text(best),
            "",
            found_text(best),
            "",
        )
    return table


def members_table(record: Record, label: str) -> Table:
    """One row per attack of an ensemble, in the order in which they were run.

    Args:
        record: A finished case of an ensemble.
        label: What to call its defense.
    """
    table = new_table(f"{label}: the attacks of {record.case.attack.name}, each on what was not recovered before it")
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
    table = new_table(f"{setting_title(first, None)}; mean [95 % interval] over n = {len(first.images)} images")
    table.add_column("defense", overflow="fold")
    add_numbers(table, *METRICS.values(), "explained", "s/image", "accuracy")
    for record, label in zip(records, labels, strict=True):
        accuracy = record.victim_accuracy
        table.add_row(
            marked(label, record.flags),
            *(interval_text(name, record.summary.get(name)) for name in METRICS),
            share_text(record.images),
            f"{mean_seconds(record):.1f}",
            ABSENT if accuracy is None else f"{100 * accuracy:.1f} % (n = {record.victim_accuracy_images or ABSENT})",
        )
    return table


def _narrow_defenses(records: Sequence[Record], labels: Sequence[str]) -> Table:
    """Columns as wide as what stands in them, 80 in all."""
    first = records[0]
    table = new_table(f"{setting_title(first, None)}; mean [95 % interval] over n = {len(first.images)} images")
    table.add_column("defense", overflow="fold", max_width=16)
    for name, heading in METRICS.items():
        table.add_column(heading, justify="right", width={"lpips": 7, "psnr_patch": 10}.get(name, 8))
    for heading in ("explained", "accuracy"):
        table.add_column(heading, justify="right", width=len(heading))
    for record, label in zip(records, labels, strict=True):
        accuracy = record.victim_accuracy
        table.add_row(
            breakable(marked(label, record.flags)),
            *(interval_text(name, record.summary.get(name)) for name in METRICS),
            share_text(record.images),
            ABSENT if accuracy is None else f"{100 * accuracy:.1f} %",
        )
    return table


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
            if flag in {*ENSEMBLE_FLAGS, EMPTY_MASK, NOT_EXPLAINED} or is_lower_bound([flag]):
                lines[f"{label}: {flag}: {FLAG_MEANINGS[flag]}"] = None
        failed = [image for image in record.images if image.failure]
        if failed:
            share = f"{len(failed)} of {len(record.images)} images"
            lines[f"{label}: the attack failed on {share}, which get the worst scores: {failed[0].failure}"] = None
    return list(lines)
