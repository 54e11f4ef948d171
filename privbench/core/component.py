"""Components: what a user picks by name and configures by `key=value`.

Attacks and defenses are frozen pydantic models, so a hyper-parameter is a typed field, is checked when the object is built,
is stored unchanged, and is listed by `privbench list` without a second description of it anywhere.
"""

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from privbench.core.errors import UserError, unknown_name

__all__ = ["Component", "one_line"]


def one_line(error: ValidationError) -> str:
    """Pydantic's report as one line: each wrong field, what was given and what is accepted."""
    parts = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"])
        given = "" if item["type"] == "missing" else f" (given: {item['input']!r})"
        # What a validator of ours says stands there behind a word for its type, and that of a whole model names what was given.
        said = item["msg"].removeprefix("Value error, ")
        parts.append(f"{where}: {said}{given}" if where else said if item["type"] == "value_error" else f"{said}{given}")
    return "; ".join(parts)


_WHOLE = re.compile(r"[-+]?[0-9]{1,100}")


class Component(BaseModel):
    """Base of everything that is chosen by name and carries hyper-parameters (keyword only, frozen, validated)."""

    # The string below a field is its description in `privbench list`.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    name: ClassVar[str]
    """The registered name, as written on the command line."""
    kind: ClassVar[str]
    """What the component is, in the singular: "attack", "defense"."""

    @classmethod
    def configured(cls, parameters: Mapping[str, Any]) -> Self:
        """Builds the component from user input; strings are converted to the declared types.

        Raises:
            UserError: A parameter is unknown, of the wrong type or out of range.
        """
        for key in parameters:
            if key not in cls.model_fields:
                raise unknown_name(f"parameter of {cls.kind} {cls.name}", key, cls.model_fields)
        for key, value in parameters.items():
            if isinstance(value, int | str) and _WHOLE.fullmatch(str(value)) and abs(int(value)) >= 2**63:
                raise UserError(f"{cls.kind} {cls.name}: {key} is {value}; accepted: whole numbers below 2^63")
        try:
            return cls.model_validate(dict(parameters))
        except ValidationError as error:
            raise UserError(f"{cls.kind} {cls.name}: {one_line(error)}") from None

    def parameters(self) -> dict[str, Any]:
        """All hyper-parameters, resolved, as plain JSON values; one without a value (None) is no part of them.

        So a component can gain an optional parameter, and its finished cases stay the same cases.
        """
        return self.model_dump(mode="json", exclude_none=True)
