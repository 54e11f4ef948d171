"""What tables, figures and notes call a defense (what differs from the defaults, and nothing else), and what it claims."""

from collections.abc import Sequence

from privbench.core import DEFENSES, Case, ComponentSpec, UserError, build_defense

__all__ = ["claim_text", "defense_label"]


def defense_label(case: Case) -> str:
    """The composed defense with the parameters that are not at their default: `mjp:mask_ratio=0.5`."""
    return "+".join(map(str, _changed(case.defense)))


def claim_text(defense: Sequence[ComponentSpec]) -> str:
    """What the composed defense promises, in one line; or why that cannot be said, such as a package that is not installed."""
    try:
        return build_defense(defense).claim()
    except UserError as error:
        return f"claim not stated: {error}"


def _changed(defense: Sequence[ComponentSpec]) -> list[ComponentSpec]:
    changed = []
    for part in defense:
        fields = DEFENSES.get(part.name).model_fields
        kept = {key: value for key, value in part.parameters.items() if key not in fields or value != fields[key].default}
        changed.append(ComponentSpec(name=part.name, parameters=kept))
    return changed
