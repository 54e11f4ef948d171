"""A rule that components of a kind keep to, and what checking it came to."""

import random
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from pydantic import ValidationError

from privbench.conformance.harness import round_trip
from privbench.core import Component, UserError

__all__ = [
    "BrokenRuleError",
    "Finding",
    "NotApplicableError",
    "Rule",
    "check_class",
    "check_parameters",
    "findings",
    "global_state_stays",
    "keep",
    "raises",
]


class BrokenRuleError(Exception):
    """A component does not keep a rule; the text says what was found, in one line."""


class NotApplicableError(Exception):
    """A rule says nothing about this component; the text says why, in one line."""


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        text: What a component of the kind does, as a sentence without its subject.
        check: Given a component as it is written on the command line; raises `BrokenRuleError` or `NotApplicableError`.
    """

    text: str
    check: Callable[[str], None]


@dataclass(frozen=True)
class Finding:
    """What checking one rule came to.

    Attributes:
        rule: Its text.
        state: `kept`, `broken`, or `skipped` where it says nothing about this component.
        detail: What was found, or why it was skipped; empty where it was kept.
        seconds: How long it took.
    """

    rule: str
    state: Literal["kept", "broken", "skipped"]
    detail: str
    seconds: float


def findings(rules: Sequence[Rule], spec: str) -> Iterator[Finding]:
    """Checks one rule after another.

    Args:
        rules: Of the component's kind.
        spec: The component, as it is written on the command line.
    """
    for rule in rules:
        started = time.perf_counter()
        state: Literal["kept", "broken", "skipped"] = "kept"
        detail = ""
        try:
            rule.check(spec)
        except NotApplicableError as reason:
            state, detail = "skipped", str(reason)
        except BrokenRuleError as reason:
            state, detail = "broken", str(reason)
        except Exception as error:
            state, detail = "broken", f"{type(error).__name__}: {error}".partition("\n")[0]
        yield Finding(rule.text, state, detail, time.perf_counter() - started)


def keep(condition: object, otherwise: str) -> None:
    """Raises `BrokenRuleError` with what is otherwise so, unless the condition holds."""
    if not condition:
        raise BrokenRuleError(otherwise)


def raises(kind: type[Exception], action: Callable[[], object], otherwise: str) -> str:
    """The message of the exception that an action must raise."""
    try:
        action()
    except kind as error:
        return str(error)
    raise BrokenRuleError(otherwise)


@contextmanager
def global_state_stays() -> Iterator[None]:
    """Raises `BrokenRuleError` where the process's random state or another global setting is not left as found."""
    before = _global_state()
    yield
    changed = [name for name, value in _global_state().items() if value != before[name]]
    keep(not changed, f"it changed global state: {', '.join(changed)}")


def _global_state() -> dict[str, object]:
    numpy_state: Any = np.random.get_state()  # noqa: NPY002 (the global generator is what must stay untouched)
    return {
        "torch's random state": torch.random.get_rng_state().tolist(),
        "Python's random state": random.getstate(),
        "NumPy's random state": [part.tolist() if isinstance(part, np.ndarray) else part for part in numpy_state],
        "torch's default type": torch.get_default_dtype(),
        "whether gradients are on": torch.is_grad_enabled(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "cuDNN's benchmark": torch.backends.cudnn.benchmark,
        "cuDNN's determinism": torch.backends.cudnn.deterministic,
        "the number of threads": torch.get_num_threads(),
        "warning filters": list(warnings.filters),
    }


def check_class(name: str, component: Any, base: type[Component]) -> None:
    """A class of the kind, with its registered name, a docstring, and a description of every parameter."""
    keep(isinstance(component, type) and issubclass(component, base), f"it is no subclass of privbench.core.{base.__name__}")
    keep(component.name == name, f"its class variable name is '{component.name}', registered is '{name}'")
    keep((component.__doc__ or "").strip(), "its class has no docstring")
    undocumented = [key for key, field in component.model_fields.items() if not field.description]
    keep(not undocumented, f"no docstring below the parameter {', '.join(undocumented)}")


def check_parameters(component: Component) -> None:
    """Keyword-only, frozen, stored unchanged, built again from text; an unknown one is refused."""
    untyped: Any = type(component)
    raises(TypeError, lambda: untyped(1), "its parameters can be given by position")
    for key, value in component.parameters().items():
        raises(ValidationError, lambda key=key, value=value: setattr(component, key, value), f"{key} can be changed later")  # type: ignore[misc]
    again = type(component).configured(component.parameters())
    keep(again == component, "built from its stored parameters it is another one")
    keep(round_trip(component) == component, "built from the text of its parameters it is another one")
    message = raises(UserError, lambda: untyped.configured({"no_such_parameter": "1"}), "it takes an unknown parameter")
    keep("no_such_parameter" in message and "\n" not in message, "an unknown parameter is not refused in one line")
