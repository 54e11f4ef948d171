"""YAML as users write it for studies, cases and claims: read with limits, and without the surprises of YAML 1.1.

`on`, `off`, `yes` and `no` are text, and so are `1:30` and dates; `1e-3` is a number. A key that is written twice is an error,
and so is what would take a machine's memory or its stack.
"""

import math
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from privbench.core.errors import UserError
from privbench.core.inputs import read_input

__all__ = ["read_yaml"]

_LARGEST = 10_000_000
"""Bytes of a file."""
_DEEPEST = 40
"""Levels of nesting."""
_NODES = 1_000_000
"""Values in a file, those of an alias counted wherever it stands."""
_MERGE = "tag:yaml.org,2002:merge"
_DIGITS = 100
"""Characters of a number."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the scalars of YAML 1.2."""

    yaml_constructors = {  # noqa: RUF012 (PyYAML's own)
        tag: made
        for tag, made in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.rpartition(":")[2] in {"null", "bool", "str", "seq", "map", "merge"}
    }
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's own)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A mapping whose keys are all different, but for those that it takes over from another one by `<<`."""
        written: set[Hashable] = set()
        for key_node in (key for key, _ in node.value if key.tag != _MERGE):
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(None, None, "a key is no plain value", key_node.start_mark)
            if key in written:
                raise yaml.constructor.ConstructorError(None, None, f"the key '{key}' is given twice", key_node.start_mark)
            written.add(key)
        return super().construct_mapping(node, deep=True)

    def number(self, node: yaml.ScalarNode) -> int | float:
        """A number of bounded length and size."""
        text = str(node.value)
        if len(text) > _DIGITS:
            raise yaml.constructor.ConstructorError(None, None, f"a number of {len(text)} characters", node.start_mark)
        value = int(text, 0) if re.fullmatch(r"0x[0-9a-fA-F]+|0o[0-7]+", text) else _number(text)
        if not math.isfinite(value):
            raise yaml.constructor.ConstructorError(None, None, f"the number {text} is not finite", node.start_mark)
        return value


def _number(text: str) -> int | float:
    return int(text) if re.fullmatch(r"[-+]?[0-9]+", text) else float(text.replace(".inf", "inf").replace(".nan", "nan"))


for _tag, _pattern, _first in (
    ("merge", r"<<", ["<"]),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    (
        "float",
        r"[-+]?(?:[0-9]+|[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|0x[0-9a-fA-F]+|0o[0-7]+|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+0123456789."),
    ),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.number)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.number)


def read_yaml(path: Path, kind: str) -> Any:
    """Reads a YAML file of one document.

    Args:
        path: The file.
        kind: What a message calls it, such as "study".

    Raises:
        UserError: It cannot be read, is no YAML, or exceeds a limit; one line that says where.
    """
    content = read_input(path, kind, _LARGEST)
    try:
        text = content.decode("utf-8")
        _require_limits(text)
        return yaml.load(text, _Loader)  # noqa: S506 (a subclass of the safe loader)
    except (UnicodeDecodeError, yaml.YAMLError, ValueError, RecursionError) as error:
        reason = str(error).replace('"<unicode string>", ', "")
        raise UserError(f"cannot read the {kind} {path}: {reason}") from None


def _require_limits(text: str) -> None:
    """Walks the parser's events, which takes neither stack nor memory, before anything is built."""
    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []
    total = 0
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.AliasEvent):
            # An alias in itself is not known yet, and is refused.
            if event.anchor not in sizes:
                raise ValueError(f"the alias *{event.anchor} stands before its value is complete")
            total += sizes[event.anchor]
        elif isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, total))
            total += 1
            if len(open_nodes) > _DEEPEST:
                line = event.start_mark.line + 1 if event.start_mark else "?"
                raise ValueError(f"line {line} is nested deeper than {_DEEPEST} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor:
                sizes[anchor] = total - before
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
            if event.anchor:
                sizes[event.anchor] = 1
        if total > _NODES:
            raise ValueError(f"more than {_NODES:,} values, aliases counted")
