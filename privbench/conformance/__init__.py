"""The rules that plug-ins keep to, checked without a test runner by `privbench check NAME`; the project's tests walk them."""

from collections.abc import Iterator

from privbench.conformance.attack_rules import ATTACK_RULES
from privbench.conformance.defense_rules import DEFENSE_RULES
from privbench.conformance.rules import Finding, findings
from privbench.core import ATTACKS, DEFENSES, UserError, unknown_name
from privbench.core.spec import parse_spec

__all__ = ["ATTACK_RULES", "DEFENSE_RULES", "Finding", "check_component"]


def check_component(spec: str, kind: str | None = None) -> tuple[str, Iterator[Finding]]:
    """Checks an attack or a defense against the rules of its kind.

    Args:
        spec: `NAME` or `NAME:KEY=VALUE,...`, registered in this process or by an entry point of an installed package.
        kind: `attack` or `defense`, where both have the name; None: whichever has it.

    Returns:
        The kind, and what each rule comes to, checked as the iterator is asked.

    Raises:
        UserError: There is no such component, two have the name, or it cannot be imported or configured.
    """
    name = parse_spec(spec).name
    known = {"attack": (ATTACKS, ATTACK_RULES), "defense": (DEFENSES, DEFENSE_RULES)}
    found = [each for each, (registry, _) in known.items() if kind in {None, each} and name in registry.names()]
    if not found:
        kinds = (kind,) if kind else tuple(known)
        raise unknown_name(" or ".join(kinds), name, [other for each in kinds for other in known[each][0].names()])
    if len(found) > 1:
        raise UserError(f"'{name}' is an attack and a defense; choose with --kind attack or --kind defense")
    registry, rules = known[found[0]]
    registry.get(name).configured(parse_spec(spec).parameters)
    return found[0], findings(rules, spec)
