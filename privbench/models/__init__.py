"""Victims and priors: timm models and the embedded ones behind one [0, 1] input contract."""

from typing import TYPE_CHECKING

from privbench.core.lazy import imported_on_use

if TYPE_CHECKING:
    from privbench.models.cards import VictimCard, card_beside, embedded_name, file_sha256, read_card, victim_card
    from privbench.models.checkpoints import load_state
    from privbench.models.loading import load_victim, position_rows, resolve_victim
    from privbench.models.loss import PenalisedLayer, client_loss, forward, tokens_after
    from privbench.models.own import register_module
    from privbench.models.prior import PRIOR_OFF, load_prior, prior_for, prior_sha256
    from privbench.models.victim import TransformerParts, Victim
    from privbench.models.zoo import DEFAULT_MODEL, Architecture, build_model, default_spec

BUILT_IN = {
    "vit_mini_patch4_32": "privbench.models.zoo:vit_mini_patch4_32",
    "cnn_mini_32": "privbench.models.zoo:cnn_mini_32",
    "cnn_decorrelated_32": "privbench.models.zoo:cnn_decorrelated_32",
    "cnn_covariance_32": "privbench.models.zoo:cnn_covariance_32",
}
"""Registered architectures; any other name is asked of timm."""

__all__ = [
    "BUILT_IN",
    "DEFAULT_MODEL",
    "PRIOR_OFF",
    "Architecture",
    "PenalisedLayer",
    "TransformerParts",
    "Victim",
    "VictimCard",
    "build_model",
    "card_beside",
    "client_loss",
    "default_spec",
    "embedded_name",
    "file_sha256",
    "forward",
    "load_prior",
    "load_state",
    "load_victim",
    "position_rows",
    "prior_for",
    "prior_sha256",
    "read_card",
    "register_module",
    "resolve_victim",
    "tokens_after",
    "victim_card",
]

_NAMES = {
    "cards": (
        "VictimCard",
        "card_beside",
        "embedded_name",
        "file_sha256",
        "read_card",
        "victim_card",
    ),
    "checkpoints": ("load_state",),
    "loading": (
        "load_victim",
        "position_rows",
        "resolve_victim",
    ),
    "loss": (
        "PenalisedLayer",
        "client_loss",
        "forward",
        "tokens_after",
    ),
    "own": ("register_module",),
    "prior": (
        "PRIOR_OFF",
        "load_prior",
        "prior_for",
        "prior_sha256",
    ),
    "victim": (
        "TransformerParts",
        "Victim",
    ),
    "zoo": (
        "DEFAULT_MODEL",
        "Architecture",
        "build_model",
        "default_spec",
    ),
}
"""Module to what it holds; a test compares it with the imports above."""

if not TYPE_CHECKING:
    __getattr__, __dir__ = imported_on_use(__name__, _NAMES)
