"""One row of the leaderboard: what was measured, and what a record or a failure says of it."""

from collections import Counter
from math import fsum
from statistics import fmean
from typing import Any

from privbench.analysis.sok import sok_model
from privbench.core import (
    Case,
    FailedCase,
    Record,
    is_ensemble,
    mean_explained,
)
from privbench.core.case import base_name

__all__ = ["failed_row", "record_row"]


def record_row(record: Record) -> dict[str, Any]:
    """The columns of a finished case."""
    case = record.case
    return {
        **_what(case),
        "n_images": len(record.images),
        "batch_size": case.batch_size,
        "steps": max(image.steps for image in record.images),
        "trials": case.attack.parameters.get("trials"),
        **_scores(record),
        "label_accuracy": _label_accuracy(record),
        "explained": mean_explained(record.images),
        "mask_accuracy": _accuracy(record, [image.mask_accuracy for image in record.images]),
        "order_accuracy": _accuracy(record, [image.order_accuracy for image in record.images]),
        "won_by": _won_by(record),
        "failures": sum(image.failure is not None for image in record.images),
        "manipulated_accuracy": record.manipulated_accuracy,
        "suspicion": record.suspicion,
        "accuracy": record.victim_accuracy,
        "accuracy_images": record.victim_accuracy_images,
        "seconds_per_image": fmean(image.seconds for image in record.images),
        "device": record.provenance.device,
        "seed": case.seed,
        "version": record.provenance.version,
        "case": record.case_id,
        "flags": " ".join(record.flags),
    }


def failed_row(failure: FailedCase) -> dict[str, Any]:
    """The columns of a case that could not be computed."""
    case = failure.case
    return {
        **_what(case),
        "n_images": 0,
        "batch_size": case.batch_size,
        "seed": case.seed,
        "version": failure.version,
        "case": failure.case_id,
        "failure": failure.reason,
    }


def _what(case: Case) -> dict[str, str]:
    """The columns that say what was measured; parameters are written as on the command line."""
    return {
        "defense": case.defense_name,
        "defense_params": "+".join(str(part).partition(":")[2] for part in case.defense),
        "attack": case.attack.name,
        "attack_params": _attack_parameters(case),
        "adversary": case.threat_model.adversary,
        "labels": case.threat_model.labels,
        "model_mode": case.threat_model.model_mode,
        "local": "" if case.local is None else f"{case.local}, training {case.threat_model.training}",
        "trains": case.trains or "",
        "server": "" if case.server is None else str(case.server),
        "sok": sok_model(case),
        "model": case.victim.model.name,
        "weights": base_name(case.victim.weights),
        "dataset": base_name(case.data.source),
        "split": case.data.split,
        "lpips_net": case.lpips,
    }


def _attack_parameters(case: Case) -> str:
    """As on the command line; of an ensemble, the names of its members."""
    if not is_ensemble(case):
        return str(case.attack).partition(":")[2]
    return "+".join(str(member["name"]) for member in case.attack.parameters["members"])


def _won_by(record: Record) -> str | None:
    """Of an ensemble: which members gave most images away, with the number of images."""
    won = Counter(image.won_by for image in record.images if image.won_by is not None)
    return " ".join(f"{name.replace(' ', '')}:{count}" for name, count in sorted(won.items())) or None


def _scores(record: Record) -> dict[str, float]:
    columns: dict[str, float] = {}
    for name, interval in record.summary.items():
        columns |= {f"{name}_mean": interval.mean, f"{name}_ci_low": interval.low, f"{name}_ci_high": interval.high}
    return columns


def _label_accuracy(record: Record) -> float | None:
    """Share of images whose label the attack found; None where the labels were known or not used."""
    used = [image for image in record.images if image.recovered_label is not None]
    if record.case.threat_model.labels == "known" or not used:
        return None
    return sum(image.recovered_label == image.label for image in used) / len(record.images)


def _accuracy(record: Record, values: list[float | None]) -> float | None:
    """Mean over the images about which something was inferred; a failed attack inferred nothing right."""
    known = [value for value in values if value is not None]
    failures = sum(image.failure is not None for image in record.images)
    return fsum(known) / (len(known) + failures) if known else None
