"""The settings of one defense as a figure names and orders them: by the parameter in which they differ."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

__all__ = ["by_strength", "number_in"]

_Key = tuple[int, str]
"""Which of the composed defenses, and its parameter."""


def by_strength(points: pd.DataFrame, every: Sequence[str]) -> pd.DataFrame:
    """The points of one defense in the order of their strength, with the name and the value of it.

    Args:
        points: Of one defense.
        every: The parameters of all its rows.

    Returns:
        The points with two more columns: `parameter`, in which rows differ, and before it what all points share though not
        all rows do (`scale absolute, std`), and `strength`: a point's value of it, and in brackets what else it has that most
        rows have not (`1 (mean zero)`).
    """
    known = sorted(map(_fields, every), key=len, reverse=True)
    keys = list(dict.fromkeys(key for one in known for key in one))
    differing = [key for key in keys if len({one.get(key) for one in known}) > 1]
    # Zero is mostly how a number says that it is not used.
    shown = differing or [key for key in keys if number_in(known[0][key])][:1] or keys[:1]
    fields = [_fields(text) for text in points["defense_params"]]
    # In what the points do not differ they are named together.
    alike = [key for key in shown[1:] if len({one.get(key) for one in fields}) == 1 and key in fields[0]]
    shown = [key for key in shown if key not in alike]
    usual = {key: Counter(one.get(key) for one in known).most_common(1)[0][0] for key in shown}
    words = [f"{key[1].replace('_', ' ')} {_value(fields[0][key])}" for key in alike]
    words += [key[1].replace("_", " ") for key in shown[:1]]
    points = points.assign(parameter=", ".join(words), strength=[_strength(one, shown, usual) for one in fields])
    numbers = [number_in(one.get(shown[0], "")) if shown else None for one in fields]
    if any(number is not None for number in numbers):
        order = np.argsort([np.inf if number is None else number for number in numbers], kind="stable")
        return points.iloc[order]
    return points


def _fields(text: str) -> dict[_Key, str]:
    """Parameters as the leaderboard writes them, `a=1,b=2` and a plus between composed defenses."""
    found = {}
    # The plus of an exponent is none between defenses.
    for place, part in enumerate(re.split(r"(?<![0-9]e)\+", text)):
        for field in part.split(","):
            name, equals, value = field.partition("=")
            if equals:
                found[place, name] = value
    return found


def number_in(text: str) -> float | None:
    """The number that a text is, or None."""
    try:
        return float(text)
    except ValueError:
        return None


def _strength(fields: dict[_Key, str], shown: Sequence[_Key], usual: Mapping[_Key, str | None]) -> str:
    first, *others = shown or [(0, "")]
    word = _value(fields[first]) if first in fields else ("default" if shown else "")
    unusual = [_named(key, fields[key]) for key in others if key in fields and fields[key] != usual[key]]
    return f"{word} ({', '.join(unusual)})" if unusual else word


def _named(key: _Key, value: str) -> str:
    """A parameter with its value; of a switch that is on the name says it."""
    name = key[1].replace("_", " ")
    return name if value == "True" else f"{name} {_value(value)}"


def _value(text: str) -> str:
    number = number_in(text)
    return text if number is None else f"{number:g}"
