"""Component specifications as a user writes them: `name:key=value,key=value`, joined by `+` where components compose."""

import re
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from privbench.core.errors import UserError
from privbench.core.stored import StrictPart

__all__ = ["ComponentSpec", "Spec", "parse_spec", "parse_specs"]

_PLUS = re.compile(r"(?<![\d.][eE])\+|\+(?!\d)")
"""A `+` that joins two parts; that of an exponent, as in `1e+2`, does not."""


class ComponentSpec(StrictPart):
    """A component by name with all its hyper-parameters resolved."""

    name: str
    parameters: dict[str, Any] = Field(default_factory=dict)

    def __str__(self) -> str:
        inside = ",".join(f"{key}={value}" for key, value in self.parameters.items())
        return f"{self.name}:{inside}" if inside else self.name


@dataclass(frozen=True)
class Spec:
    """A name and its parameters, still as text: whoever builds the component converts and checks the values."""

    name: str
    parameters: dict[str, str] = field(default_factory=dict)


def parse_spec(text: str) -> Spec:
    """Reads one `name:key=value,key=value`.

    Raises:
        UserError: The text is not of that form.
    """
    name, colon, rest = text.strip().partition(":")
    parameters: dict[str, str] = {}
    if not name or (colon and not rest):
        raise UserError(f"cannot read '{text}'; accepted: NAME or NAME:KEY=VALUE,KEY=VALUE")
    for pair in rest.split(",") if rest else []:
        key, equals, value = pair.partition("=")
        if not (key.strip() and equals and value.strip()):
            raise UserError(f"cannot read '{pair}' in '{text}'; accepted: NAME:KEY=VALUE,KEY=VALUE")
        if key.strip() in parameters:
            raise UserError(f"'{key.strip()}' is given twice in '{text}'; keep one")
        parameters[key.strip()] = value.strip()
    return Spec(name.strip(), parameters)


def parse_specs(text: str) -> tuple[Spec, ...]:
    """Reads a composition `a:x=1+b`: the parts in the order in which they act.

    Raises:
        UserError: The text is not of that form.
    """
    parts = _PLUS.split(text)
    if len(parts) > 1 and not all(part.strip() for part in parts):
        raise UserError(f"nothing stands before or after a '+' in '{text}'; accepted: NAME+NAME, or NAME alone")
    return tuple(parse_spec(part) for part in parts)
