"""What lies on disk as one file: JSON with strict fields and a schema version, or YAML; one line where it cannot be read."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from privbench.core.component import one_line
from privbench.core.errors import UserError
from privbench.core.inputs import read_input
from privbench.core.yaml_reader import read_yaml

__all__ = ["Stored", "StrictPart", "yaml_fields"]


def yaml_fields(path: Path, kind: str, otherwise: str, fields: Iterable[str]) -> dict[str, Any]:
    """Reads a YAML file that is one mapping.

    Args:
        path: The file.
        kind: What a message calls it, such as "study".
        otherwise: What is said of a file that is no mapping, such as "is no study".
        fields: What it may hold, for that message.

    Raises:
        UserError: The file cannot be read or is no mapping.
    """
    content = read_yaml(path, kind)
    if not isinstance(content, dict):
        raise UserError(f"{path} {otherwise}: expected YAML with the fields {', '.join(fields)}")
    return content


_LARGEST = 1 << 28
"""Bytes of a JSON file."""


class StrictPart(BaseModel):
    """A part of such a file: frozen, no unknown fields, no numbers that are not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Stored(StrictPart):
    """A whole file; subclasses have a field `schema_version` whose type allows the present version alone."""

    described_as: ClassVar[str]
    """What a message calls it, with its version, such as "record of schema 1"."""

    def to_json(self) -> str:
        """As indented JSON with a final newline."""
        return self.model_dump_json(indent=2) + "\n"

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads one.

        Raises:
            UserError: The file cannot be read, is of another schema version, or a field is wrong.
        """
        return cls.parse(read_input(path, cls.described_as.partition(" of ")[0], _LARGEST), path)

    @classmethod
    def parse(cls, content: bytes, name: object) -> Self:
        """Reads one from its bytes.

        Args:
            content: JSON.
            name: What a message calls it.

        Raises:
            UserError: It is of another schema version, or a field is wrong.
        """
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            raise UserError(f"{name} is not a {cls.described_as}: {one_line(error)[:300]}") from None
