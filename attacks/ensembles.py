"""The ensembles: `--attack standard` and its variants, lists of attacks to be run in a row, cheapest first."""

from privbench.core.ensemble import Ensemble

__all__ = ["BUILT_IN"]

_CLOSED_FORMS = ("april", "closed-form", "subspace", "token-search")
_OPTIMISATION = ("adjoint-matching", "gradvit", "inverting-gradients", "gradinversion")

STANDARD = Ensemble(
    "Highest leakage over closed forms and optimisation attacks, the client's random choices drawn once.",
    (*_CLOSED_FORMS, *_OPTIMISATION),
)
FAST = Ensemble("The same with adjoint-matching as the only optimisation attack.", (*_CLOSED_FORMS, "adjoint-matching"))
RAND = Ensemble(
    "The standard ensemble in expectation over the client's random choices: mean over three draws.",
    (*_CLOSED_FORMS, *_OPTIMISATION),
    draws=3,
)

BUILT_IN = {
    "standard": "privbench.attacks.ensembles:STANDARD",
    "fast": "privbench.attacks.ensembles:FAST",
    "rand": "privbench.attacks.ensembles:RAND",
}
"""Registered name to `module:attribute`."""
