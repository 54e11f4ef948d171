"""What tables, figures and notes call a defense and an attack (what differs from the defaults, and nothing else); claims."""

from collections.abc import Sequence

from privbench.core.case import Case, ComponentSpec
from privbench.core.composition import build_defense
from privbench.core.ensemble import is_ensemble
from privbench.core.errors import UserError
from privbench.core.registry import ATTACKS, DEFENSES, Registry

__all__ = ["attack_label", "claim_text", "defense_label"]


def defense_label(case: Case) -> str:
    """The composed defense with the parameters that are not at their default: `mjp:mask_ratio=0.5`."""
    return "+".join(str(_changed(part, DEFENSES)) for part in case.defense)


def attack_label(case: Case) -> str:
    """The attack with the parameters that are not at their default; of an ensemble, its name."""
    return case.attack.name if is_ensemble(case) else str(_changed(case.attack, ATTACKS))


def claim_text(defense: Sequence[ComponentSpec]) -> str:
    """What the composed defense promises, in one line; or why that cannot be said, such as a package that is not installed."""
    try:
        return build_defense(defense).claim()
    except UserError as error:
        return f"claim not stated: {error}"


def _changed(part: ComponentSpec, registry: Registry) -> ComponentSpec:
    if part.name not in registry.names():
        # Of a package that is not installed here: nobody knows its defaults.
        return part
    fields = registry.get(part.name).model_fields
    kept = {key: value for key, value in part.parameters.items() if key not in fields or value != fields[key].default}
    return ComponentSpec(name=part.name, parameters=kept)
