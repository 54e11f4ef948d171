"""The leaderboard: one row per record, generated, never edited.

Equal records give an equal file, byte for byte: rows are sorted by content alone and numbers are written so that they read back
exactly. Nothing is dropped silently: a record that cannot be read is an error that names it.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from privbench.analysis.reference_files import IDENTIFICATION, calibration_name, stands_between
from privbench.core import (
    Calibration,
    Case,
    FailedCase,
    Identification,
    Interval,
    Record,
    Training,
    UserError,
    UtilityReport,
    is_ensemble,
)
from privbench.core.case import base_name
from privbench.store.files import atomic_write, refuse_folder
from privbench.store.layout import FAILURE, RECORD, find_results

__all__ = ["leaderboard", "leaderboard_csv", "leaderboard_with_folders", "read_record", "require_ending", "write_leaderboard"]

_GROUP = ("model", "dataset", "adversary")
_COUNTS = (
    "accuracy_images",
    "steps",
    "trials",
    "failures",
    "utility_images",
    "retrained_epochs",
    "retrained_images",
    "identified_of",
)


def leaderboard(folder: Path) -> pd.DataFrame:
    """Reads every record below a folder.

    Args:
        folder: Where to look, subfolders included.

    Returns:
        One row per record, best defense first within each group of model, data set and adversary: sorted by mean PSNR,
        ascending, and then by case. `rank` counts within the group; equal means share a rank. A case that could not be
        computed is a row without scores, last in its group, whose column `failure` says why. A case that was computed in two
        places (the reference results and one's own, say) has two rows: they are two measurements.

    Raises:
        UserError: There is no record, or one cannot be read.
    """
    return leaderboard_with_folders(folder).drop(columns="folder")


def leaderboard_with_folders(folder: Path) -> pd.DataFrame:
    """The leaderboard, and in a last column `folder` where each case lies, a `Path`.

    Raises:
        UserError: As `leaderboard`.
    """
    files = find_results(folder)
    found = [UtilityReport.load(path) for path in files if path.name.startswith("utility--")]
    reports, retrained, references = _utility_reports(found), _Retrained(found), _ReferenceScores(files)
    records = [path for path in files if path.name == RECORD]
    # One at a time: a row is small, a record is not.
    measured = [
        {
            **_row(record),
            **_utility(record.case, reports),
            **retrained.columns(record.case),
            **references.columns(record),
            "failure": None,
            "folder": path.parent,
        }
        for path, record in ((path, read_record(path)) for path in records)
    ]
    done = {path.parent for path in records}
    failed = [
        {**_failed_row(FailedCase.load(path)), "folder": path.parent}
        for path in files
        if path.name == FAILURE and path.parent not in done
    ]
    rows = pd.DataFrame([*measured, *failed])
    # Columns of metrics that only some records have come last in the order of appearance, which the paths decide; sort them.
    fixed = [name for name in rows.columns if not _is_score(name)]
    scores = sorted((name for name in rows.columns if _is_score(name)), key=_score_order)
    head = fixed.index("label_accuracy")
    rows = rows[[*fixed[:head], *scores, *fixed[head:]]]
    order = [*_GROUP, "psnr_mean", "case", "seconds_per_image"]
    rows = rows.sort_values(order, kind="stable", ignore_index=True, na_position="last")
    rows.insert(0, "rank", rows.groupby(list(_GROUP), sort=False)["psnr_mean"].rank(method="min").astype("Int64"))
    return rows.astype(dict.fromkeys(_COUNTS, "Int64"))


def leaderboard_csv(rows: pd.DataFrame) -> str:
    """The leaderboard as CSV: floats as Python writes them, Unix line ends, empty cells where there is no value.

    Text that a spreadsheet would take for a formula stands behind an apostrophe.
    """
    text = rows.select_dtypes(["object", "string"]).columns
    # Few cells differ, and hardly any is a formula.
    unsafe = [name for name in text if any(_no_formula(cell) != cell for cell in rows[name].dropna().unique())]
    safe = rows.assign(**{name: rows[name].map(_no_formula) for name in unsafe})
    return safe.to_csv(index=False, lineterminator="\n", na_rep="")


def _no_formula(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


_FORMATS = {".csv": "a row per case", ".md": "tables in Markdown", ".tex": "tables in LaTeX, for booktabs"}


def require_ending(target: Path) -> None:
    """Refuses a file whose ending does not say what a leaderboard is to be.

    Raises:
        UserError: It does not.
    """
    if target.suffix.lower() not in _FORMATS:
        accepted = ", ".join(f"{name} ({what})" for name, what in _FORMATS.items())
        raise UserError(f"cannot tell what {target} is to be; accepted endings: {accepted}; `privbench report` makes HTML")


def write_leaderboard(folder: Path, target: Path) -> pd.DataFrame:
    """Generates the leaderboard of a folder into a file, whole or not at all.

    Raises:
        UserError: As `leaderboard`, or the file cannot be written.
    """
    rows = leaderboard(folder)
    refuse_folder(target)
    atomic_write(target, leaderboard_csv(rows).encode())
    return rows


def read_record(path: Path) -> Record:
    """One record.

    Raises:
        UserError: It cannot be read, or was changed.
    """
    record = Record.load(path)
    identity = record.case.identity
    if record.case_id != identity:
        raise UserError(f"{path} was changed: its case has the hash {identity}, not {record.case_id}; compute it again")
    return record


_UtilityKey = tuple[str, str | None, str]


def _utility_reports(files: Sequence[UtilityReport]) -> dict[_UtilityKey, UtilityReport]:
    """The report of each victim under each defense; of several, the one with most images, and of those the last by name."""
    found: dict[_UtilityKey, UtilityReport] = {}
    for utility in files:
        key = (utility.victim.model.name, utility.victim.weights_sha256, "+".join(map(str, utility.defense)))
        if key not in found or utility.images >= found[key].images:
            found[key] = utility
    return found


def _mean(interval: Interval | None) -> float | None:
    return None if interval is None else interval.mean


_UTILITY: Mapping[str, Callable[[UtilityReport], float | None]] = {
    "utility_images": lambda utility: utility.images,
    "utility_accuracy": lambda utility: utility.accuracy.mean,
    "utility_accuracy_low": lambda utility: utility.accuracy.low,
    "utility_accuracy_high": lambda utility: utility.accuracy.high,
    "utility_defended_accuracy": lambda utility: utility.defended_accuracy.mean,
    "utility_jigsaw_accuracy": lambda utility: _mean(utility.jigsaw_accuracy),
    "utility_consistency": lambda utility: _mean(utility.consistency),
    "utility_calibration_error": lambda utility: utility.calibration_error,
    "utility_fgsm_accuracy": lambda utility: _mean(utility.fgsm_accuracy),
    "utility_pgd_accuracy": lambda utility: _mean(utility.pgd_accuracy),
    "utility_corrupted_accuracy": lambda utility: utility.mean_corrupted_accuracy,
}
"""Column to what it takes from a utility report."""


def _utility(case: Case, reports: Mapping[_UtilityKey, UtilityReport]) -> dict[str, float | None]:
    """The columns of the utility report; empty where nobody evaluated this victim under this defense."""
    if not reports:
        return dict.fromkeys(_UTILITY)
    utility = reports.get((case.victim.model.name, case.victim.weights_sha256, case.defense_text))
    return dict.fromkeys(_UTILITY) if utility is None else {name: read(utility) for name, read in _UTILITY.items()}


class _Retrained:
    """What training under a defense costs: victims by one recipe, with a defense and without, from their utility reports.

    It answers for defenses whose leakage is measured on a victim that was trained without them.
    """

    def __init__(self, reports: Sequence[UtilityReport]) -> None:
        self._undefended: dict[tuple[object, ...], UtilityReport] = {}
        self._under: dict[tuple[str, str], list[tuple[UtilityReport, Training]]] = {}
        for utility in reports:
            defense = "+".join(map(str, utility.defense))
            if utility.training is None or utility.training.defense != defense:
                continue
            self._under.setdefault((utility.victim.model.name, defense), []).append((utility, utility.training))
            if defense == "none":
                self._undefended[self._recipe(utility, utility.training)] = utility

    @staticmethod
    def _recipe(utility: UtilityReport, training: Training) -> tuple[object, ...]:
        return utility.victim.model.name, utility.images, *training.alike

    def columns(self, case: Case) -> dict[str, float | None]:
        """The recipe of the attacked victim where it was itself trained under the defense and has a utility report.

        Else, of several recipes that have an undefended victim, the longest, and of those the one with most test images;
        empty where nobody trained this model so.
        """
        if not self._under:
            return dict.fromkeys(_RETRAINED)
        under = self._under.get((case.victim.model.name, case.defense_text), [])
        own = [pair for pair in under if pair[0].victim.weights_sha256 == case.victim.weights_sha256]
        beside = [
            (training.epochs, utility, utility if case.defense_text == "none" else self._undefended[recipe])
            for utility, training in own or under
            if (recipe := self._recipe(utility, training)) in self._undefended
        ]
        if not beside:
            return dict.fromkeys(_RETRAINED)
        epochs, utility, undefended = max(beside, key=lambda one: (one[0], one[1].images))
        values = (*_bounded(utility.accuracy), undefended.accuracy.mean, epochs, utility.images)
        return dict(zip(_RETRAINED, values, strict=True))


_RETRAINED = (
    "retrained_accuracy",
    "retrained_ci_low",
    "retrained_ci_high",
    "retrained_undefended",
    "retrained_epochs",
    "retrained_images",
)


def _bounded(interval: Interval) -> tuple[float, float, float]:
    return interval.mean, interval.low, interval.high


class _ReferenceScores:
    """Calibrations and identifications among the files of a folder."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._calibrations = {path.name: path for path in files if path.name.startswith("calibration--")}
        self._read: dict[str, Calibration] = {}
        found = (Identification.load(path) for path in files if path.name == IDENTIFICATION)
        self._identifications = {one.case_id: one for one in found}

    def columns(self, record: Record) -> dict[str, Any]:
        """The columns of one record; empty where nobody computed reference scores for it."""
        columns: dict[str, Any] = dict.fromkeys(_REFERENCE_COLUMNS)
        if (calibration := self._calibration(record.case)) is not None:
            for metric in ("psnr", "lpips"):
                if metric in record.summary:
                    columns[f"{metric}_between"] = stands_between(
                        record.summary[metric].mean, calibration.rows, metric, higher_is_leakier=metric == "psnr"
                    )
        if (found := self._identifications.get(record.case_id)) is not None:
            columns["identified_of"] = found.candidates
            for distance in found.ranks:
                columns |= {f"identified_{distance}_top{k}": found.top(distance, k) for k in (1, 5)}
        return columns

    def _calibration(self, case: Case) -> Calibration | None:
        if not self._calibrations or (name := calibration_name(case)) not in self._calibrations:
            return None
        if name not in self._read:
            self._read[name] = Calibration.load(self._calibrations[name])
        return self._read[name]


_REFERENCE_COLUMNS = (
    "psnr_between",
    "lpips_between",
    "identified_of",
    *(f"identified_{distance}_top{k}" for distance in ("pixel", "lpips", "feature") for k in (1, 5)),
)


def _row(record: Record) -> dict[str, Any]:
    case = record.case
    return {
        **_what(case),
        "n_images": len(record.images),
        "batch_size": case.batch_size,
        "steps": max(image.steps for image in record.images),
        "trials": case.attack.parameters.get("trials"),
        **_scores(record),
        "label_accuracy": _label_accuracy(record),
        "explained": _explained(record),
        "mask_accuracy": _accuracy(record, [image.mask_accuracy for image in record.images]),
        "order_accuracy": _accuracy(record, [image.order_accuracy for image in record.images]),
        "won_by": _won_by(record),
        "failures": sum(image.failure is not None for image in record.images),
        "accuracy": record.victim_accuracy,
        "accuracy_images": record.victim_accuracy_images,
        "seconds_per_image": sum(image.seconds for image in record.images) / len(record.images),
        "device": record.provenance.device,
        "seed": case.seed,
        "version": record.provenance.version,
        "case": record.case_id,
        "flags": " ".join(record.flags),
    }


def _failed_row(failure: FailedCase) -> dict[str, Any]:
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


_FIRST = ("psnr", "ssim", "lpips", "psnr_patch", "ssim_patch")
_ENDINGS = ("_mean", "_ci_low", "_ci_high")


def _is_score(column: str) -> bool:
    return column.endswith(_ENDINGS)


def _score_order(column: str) -> tuple[int, str, int]:
    ending = next(ending for ending in _ENDINGS if column.endswith(ending))
    metric = column.removesuffix(ending)
    return (_FIRST.index(metric) if metric in _FIRST else len(_FIRST), metric, _ENDINGS.index(ending))


def _label_accuracy(record: Record) -> float | None:
    """Share of images whose label the attack found; None where the labels were known or not used."""
    used = [image for image in record.images if image.recovered_label is not None]
    if record.case.threat_model.labels == "known" or not used:
        return None
    return sum(image.recovered_label == image.label for image in used) / len(record.images)


def _explained(record: Record) -> float | None:
    """Mean share of the update that the reconstructions explain; a failed attack explains nothing."""
    shares = [0.0 if image.failure else image.explained for image in record.images]
    known = [share for share in shares if share is not None]
    return sum(known) / len(known) if len(known) == len(shares) else None


def _accuracy(record: Record, values: list[float | None]) -> float | None:
    """Mean over the images about which something was inferred; a failed attack inferred nothing right."""
    known = [value for value in values if value is not None]
    failures = sum(image.failure is not None for image in record.images)
    return sum(known) / (len(known) + failures) if known else None
