"""Short names of defenses for tables and figures: what differs from the defaults, and nothing else."""

from collections.abc import Sequence

from privbench.core import DEFENSES, Case, ComponentSpec

__all__ = ["defense_label"]


def defense_label(case: Case) -> str:
    """The composed defense with the parameters that are not at their default: `mjp:mask_ratio=0.5`."""
    return "+".join(map(str, _changed(case.defense)))


def _changed(defense: Sequence[ComponentSpec]) -> list[ComponentSpec]:
    changed = []
    for part in defense:
        fields = DEFENSES.get(part.name).model_fields
        kept = {key: value for key, value in part.parameters.items() if key not in fields or value != fields[key].default}
        changed.append(ComponentSpec(name=part.name, parameters=kept))
    return changed
