"""What reference scores add to the leaderboard: between which pictures a score stands, and how many images are identified."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from privbench.analysis.reference_files import IDENTIFICATION, calibration_name, stands_between
from privbench.core import (
    Calibration,
    Identification,
    Record,
)

__all__ = ["ReferenceScores"]


class ReferenceScores:
    """Calibrations and identifications among the files of a folder."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._calibrations = {path.name: path for path in files if path.name.startswith("calibration--")}
        self._read: dict[str, Calibration] = {}
        found = (Identification.load(path) for path in files if path.name == IDENTIFICATION)
        self._identifications = {one.case_id: one for one in found}

    def columns(self, record: Record) -> dict[str, Any]:
        """The columns of one record; empty where nobody computed reference scores for it."""
        columns: dict[str, Any] = dict.fromkeys(_REFERENCE_COLUMNS)
        if (calibration := self._calibration(record)) is not None:
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

    def _calibration(self, record: Record) -> Calibration | None:
        if not self._calibrations or (name := calibration_name(record)) not in self._calibrations:
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
