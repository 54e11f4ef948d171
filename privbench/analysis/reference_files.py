"""Where calibrations and identifications lie, and between which of them a score stands: all that reading them takes."""

import hashlib
from collections.abc import Mapping

from privbench.core import Interval, Record

__all__ = ["IDENTIFICATION", "calibration_name", "stands_between"]

IDENTIFICATION = "identification.json"


def calibration_name(record: Record) -> str:
    """File name of the calibration of a case: the same for all cases with the same images, size and trunk of LPIPS."""
    case, trunk = record.case, record.lpips_weights_sha256
    words = (case.data.sha256, case.victim.model.image_size, case.lpips, *([trunk] if trunk else []))
    return f"calibration--{hashlib.sha256(repr(words).encode()).hexdigest()[:12]}.json"


def stands_between(score: float, rows: Mapping[str, Mapping[str, Interval]], metric: str, *, higher_is_leakier: bool) -> str:
    """Between which calibration rows a mean score stands: `less..more`, the nearest that leak less and more, or nothing."""
    sign = 1 if higher_is_leakier else -1
    means = sorted((sign * row[metric].mean, name) for name, row in rows.items() if metric in row)
    less = [name for value, name in means if value <= sign * score]
    more = [name for value, name in means if value > sign * score]
    return f"{less[-1] if less else ''}..{more[0] if more else ''}"
