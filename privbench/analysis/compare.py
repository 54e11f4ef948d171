"""Finished cases beside each other on the same images: the difference that a defense makes, with interval and test."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

import pandas as pd

from privbench.core import Record, UserError
from privbench.core.case import base_name
from privbench.core.labels import attack_label, defense_label, update_words
from privbench.scoring import PairedDifference, holm, paired_difference

__all__ = ["Comparison", "compare", "compare_records", "comparison_rows", "setting_notes"]


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
    """Compares every case with that of the baseline defense, of the same attack, victim, data, client, server and threat model.

    Weights of files are the same where their names are, apart from the defense's: `MODEL.mjp.safetensors` of `privbench train`
    is compared with `MODEL.none.safetensors`.

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
    return (str(case.attack), case.data.split, *_setting(record).values())


def _setting(record: Record) -> dict[str, str]:
    """What a defense and its baseline have in common, beside the attack and its adversary."""
    case, threat = record.case, record.case.threat_model
    weights = base_name(case.victim.weights)
    return {
        "model": case.victim.model.name,
        "weights": weights.replace(f".{case.defense_name}.", ".*.") if "." in weights else weights,
        "dataset": base_name(case.data.source),
        "batch_size": str(case.batch_size),
        "labels": threat.labels,
        "model_mode": threat.model_mode,
        "local": "" if case.local is None else f"{case.local}, training {threat.training}",
        "trains": case.trains or "",
        "server": "" if case.server is None else str(case.server),
        "seed": str(case.seed),
    }


def _nearest_first(bases: Sequence[Record], record: Record) -> list[Record]:
    """Of the same adversary first, and among them those that share most images."""
    images = {image.image for image in record.images}

    def far(base: Record) -> tuple[bool, int]:
        other_adversary = base.case.threat_model.adversary != record.case.threat_model.adversary
        return other_adversary, -len(images.intersection(image.image for image in base.images))

    return sorted(bases, key=far)


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
                **_shown(one.record),
                "difference": interval.mean,
                "low": interval.low,
                "high": interval.high,
                "p": one.difference.p,
                "p_corrected": one.p_corrected,
                "n": interval.n,
            }
        )
    return pd.DataFrame(rows)


_NOTES = {
    "model": "{}",
    "weights": "weights {}",
    "batch_size": "batches of {}",
    "labels": "labels {}",
    "model_mode": "model in {} mode",
    "seed": "seed {}",
    "images": "images {}",
}


def setting_notes(comparisons: Sequence[Comparison]) -> list[str]:
    """Of each comparison, what sets it apart from most others of the table, and the kind of its update, in words."""
    settings = [_shown(one.record) for one in comparisons]
    usual = {name: Counter(one[name] for one in settings).most_common(1)[0][0] for name in _NOTES} if settings else {}
    return [
        ", ".join(
            [note.format(one[name]) for name, note in _NOTES.items() if one[name] != usual[name]]
            + update_words(one["local"], one["trains"], one["server"])
        )
        for one in settings
    ]


def _shown(record: Record) -> dict[str, str]:
    indices = [str(index) for index in record.case.data.indices]
    images = f"{indices[0]} to {indices[-1]}" if len(indices) > 2 else " and ".join(indices)
    return _setting(record) | {"weights": base_name(record.case.victim.weights), "images": images}
