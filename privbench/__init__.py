"""privbench: how much of a private image a vision transformer's gradient gives away, and what each defense is worth.

    import privbench

    results = privbench.run(defense="none,mjp", attack="closed-form", limit=2)
    results.leaderboard()

Everything is imported when it is used, so that the import itself takes no time.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from privbench.api import (
        attack,
        check,
        components,
        evaluate,
        figure,
        find_case,
        invert_features,
        json_schema,
        judge_claims,
        load_results,
        load_study,
        plan,
        run,
        score,
        status,
        train,
        verify,
    )
    from privbench.auditing.front import audit
    from privbench.core import ATTACKS, DEFENSES, Observation, Reconstruction, UserError
    from privbench.results import Results

__all__ = [
    "ATTACKS",
    "DEFENSES",
    "Observation",
    "Reconstruction",
    "Results",
    "UserError",
    "attack",
    "audit",
    "check",
    "components",
    "evaluate",
    "figure",
    "find_case",
    "invert_features",
    "json_schema",
    "judge_claims",
    "load_results",
    "load_study",
    "plan",
    "run",
    "score",
    "status",
    "train",
    "verify",
]

__version__ = "0.2.0"

_FRONT_DOOR = {
    "ATTACKS": "privbench.core",
    "DEFENSES": "privbench.core",
    "Observation": "privbench.core",
    "Reconstruction": "privbench.core",
    "Results": "privbench.results",
    "UserError": "privbench.core.errors",
    "attack": "privbench.api",
    "audit": "privbench.auditing.front",
    "check": "privbench.api",
    "components": "privbench.api",
    "evaluate": "privbench.api",
    "figure": "privbench.api",
    "find_case": "privbench.api",
    "invert_features": "privbench.api",
    "json_schema": "privbench.api",
    "judge_claims": "privbench.api",
    "load_results": "privbench.api",
    "load_study": "privbench.api",
    "plan": "privbench.api",
    "run": "privbench.api",
    "score": "privbench.api",
    "status": "privbench.api",
    "train": "privbench.api",
    "verify": "privbench.api",
}
"""Name to the module that has it. No room of the package has one of these names, which would hide it."""


def __getattr__(name: str) -> Any:
    if name not in _FRONT_DOOR:
        raise AttributeError(f"module 'privbench' has no attribute '{name}'; it offers {', '.join(__all__)}")
    found = getattr(importlib.import_module(_FRONT_DOOR[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
