"""Finished cases beside each other on the same images: the difference that a defense makes, with interval and test."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import pandas as pd

from privbench.core import Record, UserError
from privbench.core.case import base_name
from privbench.core.labels import attack_label, defense_label
from privbench.scoring import PairedDifference, holm, paired_difference

__all__ = ["Comparison", "compare", "compare_records", "comparison_rows"]


@dataclass(frozen=True)
class Comparison:
    """One case against the baseline of its group.

    Attributes:
        baseline: The record of the baseline defense.
        record: The record that is compared with it.
        difference: Its scores minus the baseline's, over the images that both have.
        p_corrected: The p of the difference, corrected by Holm's method for all comparisons of the same table.
    """

    baseline: Record
    record: Record
    difference: PairedDifference
    p_corrected: float = 1.0


def compare(baseline: Record, record: Record, metric: str) -> Comparison | None:
    """Compares two cases over the images that both have, by name; None where they have none in common.

    Raises:
        UserError: A record lacks the metric.
    """
    first = _scores(baseline, metric)
    second = _scores(record, metric)
    common = [name for name in first if name in second]
    if not common:
        return None
    values = ([first[name] for name in common], [second[name] for name in common])
    difference = paired_difference(*values, seed=record.case.seed)
    return Comparison(baseline, record, difference, difference.p)


def compare_records(records: Sequence[Record], *, metric: str, baseline: str) -> list[Comparison]:
    """Compares every case with that of the baseline defense, of the same attack, model, data and threat model.

    A defense that changes nothing for an attacker has one row for all adversaries, so that an `aware` or `oracle` case without
    a baseline of its own is compared with the `unaware` one.

    Args:
        records: Finished cases; of a case that was computed in several places the first counts.
        metric: Whose scores.
        baseline: The defense to compare with, as in the column `defense`.

    Returns:
        The comparisons, sorted by attack, adversary and defense; empty where nothing compares.

    Raises:
        UserError: A record lacks the metric.
    """
    once: dict[str, Record] = {}
    for record in records:
        once.setdefault(record.case_id, record)
    groups: dict[tuple[str, ...], list[Record]] = defaultdict(list)
    for record in once.values():
        groups[_group(record)].append(record)
    found = []
    for group in groups.values():
        bases = [record for record in group if record.case.defense_name == baseline]
        for record in group:
            if record.case.defense_name == baseline:
                continue
            compared = (compare(base, record, metric) for base in _nearest_first(bases, record))
            found += list(islice((comparison for comparison in compared if comparison is not None), 1))
    corrected = holm([one.difference.p for one in found])
    found = [replace(one, p_corrected=p) for one, p in zip(found, corrected, strict=True)]
    return sorted(found, key=lambda one: _order(one.record))


def _scores(record: Record, metric: str) -> dict[str, float]:
    if metric not in record.summary:
        raise UserError(f"case {record.case_id} has no metric '{metric}'; accepted: {', '.join(sorted(record.summary))}")
    return {image.image: image.scores[metric] for image in record.images}


def _group(record: Record) -> tuple[str, ...]:
    case = record.case
    threat = case.threat_model
    return (
        str(case.attack),
        case.victim.model.name,
        Path(case.data.source).name,
        case.data.split,
        str(case.batch_size),
        threat.labels,
        threat.model_mode,
        str(case.seed),
    )


def _nearest_first(bases: Sequence[Record], record: Record) -> list[Record]:
    return sorted(bases, key=lambda base: base.case.threat_model.adversary != record.case.threat_model.adversary)


def _order(record: Record) -> tuple[str, str, str]:
    return str(record.case.attack), record.case.threat_model.adversary, record.case.defense_text


def comparison_rows(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """Comparisons as a table, a row each."""
    rows = []
    for one in comparisons:
        case, interval = one.record.case, one.difference.interval
        rows.append(
            {
                "defense": defense_label(case),
                "attack": attack_label(case),
                "adversary": case.threat_model.adversary,
                "dataset": base_name(case.data.source),
                "difference": interval.mean,
                "low": interval.low,
                "high": interval.high,
                "p": one.difference.p,
                "p_corrected": one.p_corrected,
                "n": interval.n,
            }
        )
    return pd.DataFrame(rows)
