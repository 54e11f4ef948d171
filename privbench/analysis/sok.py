"""The threat model of a row by the letters of a systematisation (Carletti et al., USENIX Security 2025).

A to E are eavesdroppers who know more and more: A the update alone, B what images are like, C how the client trained, D data
like the client's, E its statistics. F and G change the model that they send, G with data like the client's; H also chooses
clients. Which published attack stands where follows the authors' list (github.com/gparrella12/sok_gias_fl): DLG and iDLG are A,
Inverting Gradients and APRIL B, matching through local steps C, GradInversion and GradViT E, fishing F, Robbing the Fed G.
"""

from privbench.core import Case

__all__ = ["sok_model"]

_UPDATE_ALONE = frozenset({"dlg", "idlg"})
"""Attacks that use nothing but the update."""
_WITH_PUBLIC_DATA = frozenset({"imprint"})
"""Servers that plan by images like the client's."""


def sok_model(case: Case) -> str:
    """The letter of a case, by its server, its attack and what it is told; known labels and disclosed choices have none.

    Args:
        case: Any.
    """
    if case.server is not None:
        return "G" if case.server.name in _WITH_PUBLIC_DATA else "F"
    if case.attack.parameters.get("bn_prior"):
        return "E"
    if case.local is not None and case.threat_model.training == "known":
        return "C"
    return "A" if case.attack.name in _UPDATE_ALONE else "B"
