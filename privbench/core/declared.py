"""What the source of a built-in component says of it, read without an import: its summary, the defaults of its parameters.

Listing and labelling need no more, and a component's module takes torch and timm with it, which are seconds.
"""

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__ = ["Declared", "declared"]


@dataclass(frozen=True)
class Declared:
    """What is written where a name is defined.

    Attributes:
        summary: The first line of a docstring; of an object that a call makes, its argument `summary`.
        values: Defaults of a class's fields, those of its bases included; of such a call the arguments that are literals.
    """

    summary: str
    values: Mapping[str, Any]


@cache
def declared(target: str) -> Declared | None:
    """Reads the definition of `module:attribute`.

    Returns:
        None where it cannot be told without running the module: a default that is computed, a base class from elsewhere.
    """
    module, _, attribute = target.partition(":")
    source = _source(module)
    if source is None or (node := source.defined.get(attribute)) is None:
        return None
    try:
        if isinstance(node, ast.ClassDef):
            return Declared(_first_line(node), source.fields(node))
        if isinstance(node, ast.FunctionDef):
            return Declared(_first_line(node), {})
        return _call(node)
    except ValueError:
        return None


def _first_line(node: ast.ClassDef | ast.FunctionDef) -> str:
    return (ast.get_docstring(node) or "").partition("\n")[0]


def _call(node: ast.expr) -> Declared:
    if not isinstance(node, ast.Call):
        raise ValueError("no call")
    values = {}
    for word in node.keywords:
        try:
            values[str(word.arg)] = ast.literal_eval(word.value)
        except ValueError:  # a function, a constant: nothing that is asked for
            continue
    if "summary" not in values:
        raise ValueError("says nothing of itself")
    return Declared(str(values["summary"]), values)


@dataclass(frozen=True)
class _Source:
    """A module's source: what it defines, and where what it imports comes from."""

    defined: Mapping[str, ast.ClassDef | ast.FunctionDef | ast.expr]
    imported: Mapping[str, str]

    def fields(self, node: ast.ClassDef) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for base in reversed(node.bases):
            found |= self._inherited(base)
        annotated = [line for line in node.body if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)]
        for line in annotated:
            if line.value is not None and not ast.unparse(line.annotation).startswith("ClassVar"):
                found[ast.unparse(line.target)] = self._value(line.value)
        return found

    def _inherited(self, base: ast.expr) -> Mapping[str, Any]:
        name = base.id if isinstance(base, ast.Name) else ""
        own = self.defined.get(name)
        if isinstance(own, ast.ClassDef):
            return self.fields(own)
        origin = self.imported.get(name, "")
        if origin.startswith(("privbench.core", "abc:", "typing:")):
            return {}  # contracts have no parameters
        above = declared(origin) if origin else None
        if above is None:
            raise ValueError(f"the base {ast.unparse(base)} is not known")
        return above.values

    def _value(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Name) and isinstance(constant := self.defined.get(node.id), ast.expr):
            return ast.literal_eval(constant)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            return ast.literal_eval(node.left) / ast.literal_eval(node.right)
        return ast.literal_eval(node)


@cache
def _source(module: str) -> _Source | None:
    spec = find_spec(module)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    body = ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body
    defined: dict[str, ast.ClassDef | ast.FunctionDef | ast.expr] = {}
    imported: dict[str, str] = {}
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            defined[node.name] = node
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            defined[node.targets[0].id] = node.value
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            defined[node.target.id] = node.value
        elif isinstance(node, ast.ImportFrom):
            imported |= {name.asname or name.name: f"{node.module}:{name.name}" for name in node.names}
    return _Source(defined, imported)
