"""What a user asked for, with `--set` merged in: one value per option, from whichever of the two it came."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from privbench.core import UserError, unknown_name
from privbench.resolving.options import OPTIONS, SETTINGS, RunOptions, takes_several

__all__ = ["Overrides", "read_overrides"]

_LARGEST = 2**63
"""Above what torch and numpy take as a size or a seed."""


@dataclass(frozen=True)
class Overrides:
    """The options that were given.

    Attributes:
        values: Option to value; text where it came from `--set`.
        attack: Parameters of the attack, from `--set attack.KEY=VALUE`.
        defense: Parameters of the defense, from `--set defense.KEY=VALUE`.
    """

    values: Mapping[str, Any]
    attack: Mapping[str, str]
    defense: Mapping[str, str]

    def has(self, *names: str) -> bool:
        """Whether one of these options was given."""
        return any(self.values.get(name) is not None for name in names)

    def text(self, name: str, default: str) -> str:
        """An option as text."""
        value = self.values.get(name)
        return default if value is None else str(value)

    def number(self, name: str) -> int | None:
        """An option as a whole number.

        Raises:
            UserError: It is none, or larger than any size or seed can be.
        """
        value = self.values.get(name)
        if value is None:
            return None
        text = str(value)
        try:
            number = int(text) if len(text) < len(str(_LARGEST)) + 1 else None
        except ValueError:
            number = None
        if number is None or isinstance(value, bool) or abs(number) >= _LARGEST:
            raise UserError(f"{key_of(name)} is {text[:60]!r}; accepted: a whole number below 2^63")
        return number


def key_of(name: str) -> str:
    """The key of an option in a case."""
    return OPTIONS[name].key or name


def read_overrides(options: RunOptions) -> Overrides:
    """Splits `--set` into options, attack parameters and defense parameters.

    Raises:
        UserError: A key is unknown or given twice, an option has an unknown name, or several values where it takes one.
    """
    values: dict[str, Any] = {}
    for name, value in options.items():
        if name in {"config", "settings"}:
            continue
        if name not in OPTIONS:
            raise unknown_name("option", name, OPTIONS)
        values[name] = _one_value(name, value)
    parameters: dict[str, dict[str, str]] = {"attack": {}, "defense": {}}
    for key, value in _pairs(options.get("settings") or ()):
        kind, dot, parameter = key.partition(".")
        if dot and kind in parameters:
            parameters[kind][parameter] = value
            continue
        if key not in SETTINGS:
            raise unknown_name("setting", key, [*SETTINGS, "attack.PARAMETER", "defense.PARAMETER"])
        name = SETTINGS[key]
        if values.get(name) is not None:
            raise UserError(f"{key} is given twice, by --set and by the option for it; keep one")
        values[name] = value
    return Overrides(values, parameters["attack"], parameters["defense"])


def _one_value(name: str, value: Any) -> Any:
    """Several names or positions are a comma list; of other options there is one value."""
    if isinstance(value, str | PurePath) or not isinstance(value, Iterable):
        return value
    if not takes_several(name):
        raise UserError(f"{name} is {str(value)[:60]}; accepted: one value; call once for each")
    return ",".join(map(str, value))


def _pairs(settings: Iterable[str]) -> list[tuple[str, str]]:
    pairs: dict[str, str] = {}
    for text in settings:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not (key and equals and value.strip()):
            raise UserError(f"cannot read --set '{text[:200]}'; accepted: KEY=VALUE, such as attack.steps=300")
        if key in pairs:
            raise UserError(f"--set {key} is given twice; keep one")
        pairs[key] = value.strip()
    return list(pairs.items())
