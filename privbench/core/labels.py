"""What tables, figures and notes call a defense and an attack: what differs from the defaults, and nothing else; guarantees."""

from collections.abc import Iterable, Sequence, Set

from privbench.core.case import Case
from privbench.core.ensemble import is_ensemble
from privbench.core.errors import UserError
from privbench.core.registry import ATTACKS, DEFENSES, Registry
from privbench.core.spec import ComponentSpec

__all__ = ["attack_label", "defense_label", "defense_labels", "guarantee_text", "update_words"]


def defense_label(case: Case) -> str:
    """The composed defense with the parameters that are not at their default: `mjp:mask_ratio=0.5`."""
    return "+".join(str(_changed(part, DEFENSES)) for part in case.defense)


def defense_labels(defenses: Iterable[Sequence[ComponentSpec]]) -> list[str]:
    """The composed defenses of one table: each part with the parameters that are not at their default in one of its name."""
    defenses = list(defenses)
    shown: dict[str, set[str]] = {}
    for part in (part for parts in defenses for part in parts):
        shown.setdefault(part.name, set()).update(_changed(part, DEFENSES).parameters)
    return ["+".join(str(_only(part, shown[part.name])) for part in parts) for parts in defenses]


def attack_label(case: Case) -> str:
    """The attack with the parameters that are not at their default; of an ensemble, its name."""
    return case.attack.name if is_ensemble(case) else str(_changed(case.attack, ATTACKS))


def update_words(local: str, trains: str, server: str) -> list[str]:
    """What sets an update apart from the whole gradient of one step for an honest server, in words; nothing of such a one.

    Args:
        local: How the client trains; empty for one step.
        trains: Which parameters it trains and sends; empty for all.
        server: What a malicious server did to the model; empty for an honest one.
    """
    words = (("client trains by {}", local), ("sent: {}", trains), ("server {}", server))
    return [form.format(value) for form, value in words if value]


def guarantee_text(defense: Sequence[ComponentSpec]) -> str:
    """What the composed defense promises, in one line; or why that cannot be said, such as a package that is not installed."""
    from privbench.core.composition import build_defense  # takes torch with it, which nothing else here needs

    try:
        return build_defense(defense).guarantee()
    except UserError as error:
        return f"guarantee not stated: {error}"


def _changed(part: ComponentSpec, registry: Registry) -> ComponentSpec:
    if part.name not in registry.names():
        # Of a package that is not installed here: nobody knows its defaults.
        return part
    defaults = registry.declared(part.name).values
    return _only(part, {key for key, value in part.parameters.items() if key not in defaults or value != defaults[key]})


def _only(part: ComponentSpec, keys: Set[str]) -> ComponentSpec:
    return ComponentSpec(name=part.name, parameters={key: value for key, value in part.parameters.items() if key in keys})
