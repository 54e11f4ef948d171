"""A study: a file that names many cases by axes, expanded to resolved cases, each of them once."""

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from privbench.core import Case, ImageError, UserError, unknown_name
from privbench.core.component import one_line
from privbench.core.stored import yaml_fields
from privbench.resolving.options import OPTIONS, SETTINGS, RunOptions
from privbench.resolving.resolve import ResolvedParts, resolve_cases

__all__ = ["Study", "StudyFile", "read_study"]

_LARGEST = 100_000
"""So many combinations at most: more is a slip in the file."""

Value = str | int | float | bool | None
"""What an axis may hold; None is the default."""


class StudyFile(BaseModel):
    """The fields of a study file.

    Keys of `settings` and `grid` are the options of `privbench run` (`defense`, `attack`, `batch_size`, ...), or
    `attack.PARAMETER` and `defense.PARAMETER`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """What the study is called, in file names too."""
    settings: dict[str, Value] = Field(default_factory=dict)
    """What all cases have in common."""
    grid: tuple[dict[str, Annotated[tuple[Value, ...], Field(min_length=1)]], ...] = Field(min_length=1)
    """Grids, each a mapping of axes to values: every combination of the values of one grid is a case, and the study has those
    of all grids."""

    @field_validator("grid", mode="before")
    @classmethod
    def _one_or_several(cls, grid: Any) -> Any:
        """A single mapping is one grid, a single value an axis of one value."""
        grids = [grid] if isinstance(grid, Mapping) else grid
        if not isinstance(grids, list):
            return grids
        return [
            {key: values if isinstance(values, list) else [values] for key, values in one.items()}
            if isinstance(one, Mapping)
            else one
            for one in grids
        ]

    def combinations(self) -> Iterator[dict[str, Value]]:
        """Settings of every combination, in the order of the file; the last axis runs fastest."""
        for grid in self.grid:
            for values in itertools.product(*grid.values()):
                yield {**self.settings, **dict(zip(grid, values, strict=True))}


@dataclass(frozen=True)
class Study:
    """Resolved cases under a name.

    Attributes:
        name: Of the study.
        cases: Each case once, in the order of the file.
        combinations: How many combinations the file has; more than `cases` where several name the same case.
        unreadable: One line for each combination that has no case, because an image of it cannot be read.
    """

    name: str
    cases: tuple[Case, ...]
    combinations: int
    unreadable: tuple[str, ...] = ()

    @property
    def identity(self) -> str:
        """Content hash of the cases: 12 hexadecimal digits."""
        return hashlib.sha256("".join(case.identity for case in self.cases).encode()).hexdigest()[:12]

    def shard(self, part: int, of: int) -> "Study":
        """Every `of`-th case, from the `part`-th on (from 1); the shards of a study are disjoint and make up the study."""
        return replace(self, cases=self.cases[part - 1 :: of])

    def plan(self) -> str:
        """Which cases the study has, as JSON that lies beside their folders."""
        return json.dumps({"name": self.name, "folders": [case.folder for case in self.cases]}, indent=1) + "\n"


def read_study(path: Path, overrides: Mapping[str, Value] | None = None) -> Study:
    """Reads a study file and resolves its cases.

    Args:
        path: A YAML file.
        overrides: Settings that go before those of the file, axes included; a `limit` among them is of one batch at least.

    Raises:
        UserError: The file cannot be read, a field is wrong, or a combination is not accepted; the line names it. A damaged
            image alone costs only the combinations that need it, as long as there is another one.
    """
    file = _parse(path)
    overrides = dict(overrides or {})
    for key in [*file.settings, *(key for grid in file.grid for key in grid), *overrides]:
        _require_known(key, path)
    combinations = list(itertools.islice(file.combinations(), _LARGEST + 1))
    if len(combinations) > _LARGEST:
        raise UserError(f"{path} has more than {_LARGEST:,} combinations; split it")
    cases: dict[str, Case] = {}
    unreadable: list[str] = []
    shared = ResolvedParts()
    for combination in _different([_overridden(one, overrides) for one in combinations]):
        try:
            resolved = resolve_cases(_options(combination), shared)
        except UserError as error:
            said = ", ".join(f"{key}: {value}" for key, value in combination.items() if value is not None)
            line = f"the case of {said}: {error}"
            if not isinstance(error, ImageError):
                raise UserError(f"{path}, {line}") from None
            unreadable.append(line)
            continue
        for case in resolved:
            cases.setdefault(case.identity, case)
    if not cases:
        raise UserError(f"{path}, {unreadable[0]}")
    return Study(file.name, tuple(cases.values()), len(combinations), tuple(unreadable))


def _parse(path: Path) -> StudyFile:
    content = yaml_fields(path, "study", "is no study", StudyFile.model_fields)
    try:
        return StudyFile.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{path}: {one_line(error)}") from None


def _require_known(key: str, path: Path) -> None:
    kind, dot, parameter = key.partition(".")
    if key in OPTIONS or key in SETTINGS or (dot and parameter and kind in {"attack", "defense"}):
        return
    raise UserError(f"{path}: {unknown_name('setting', key, [*OPTIONS, 'attack.PARAMETER', 'defense.PARAMETER'])}")


def _overridden(combination: Mapping[str, Value], overrides: Mapping[str, Value]) -> dict[str, Value]:
    changed = {**combination, **overrides}
    limit, batch = overrides.get("limit"), changed.get("batch_size")
    # A study is cut down for a first look: its large batches stay what they are.
    return {**changed, "limit": max(limit, batch)} if isinstance(limit, int) and isinstance(batch, int) else changed


def _different(combinations: Sequence[dict[str, Value]]) -> list[dict[str, Value]]:
    """Each combination once; an override makes those equal that differ in its axis alone."""
    return list({json.dumps(one, sort_keys=True): one for one in combinations}.values())


def _options(combination: Mapping[str, Value]) -> RunOptions:
    said = {key: value for key, value in combination.items() if value is not None}
    named: dict[str, Any] = {key: _text(value) for key, value in said.items() if key in OPTIONS}
    settings = tuple(f"{key}={_text(value)}" for key, value in said.items() if key not in OPTIONS)
    return cast(RunOptions, {**named, "settings": settings})


def _text(value: Value) -> str:
    """As a user would write it on the command line."""
    return str(value).lower() if isinstance(value, bool) else str(value)
