"""Families of defenses, by what they change, and their colours, the same in all figures."""

from collections.abc import Mapping

from privbench.core import DEFENSES, Defense
from privbench.drawing.style import Look

__all__ = ["FAMILIES", "defense_family", "family_looks"]

FAMILIES: Mapping[str, str] = {
    "none": "#000000",
    "input": "#0072B2",
    "architecture": "#D55E00",
    "gradient": "#009E73",
    "training": "#CC79A7",
    "combined": "#E69F00",
    "other": "#767676",
}
"""Family to colour (Okabe and Ito's, safe for the colour-blind); `combined` composes several, `other` is not installed."""

_BUILT_IN: Mapping[str, tuple[str, ...]] = {
    "input": ("naive-shuffle", "mjp", "pixel-shuffle", "mixup", "instahide"),
    "architecture": ("no-pe", "precode", "stochastic-layers"),
    "gradient": ("gradient-noise", "clipping", "pruning", "quantization", "sign", "soteria"),
    "training": ("dpsgd", "nog"),
}
_HOOKS = (
    ("input", ("prepare_batch",)),
    ("gradient", ("protect_gradients", "protect_samples")),
    ("architecture", ("prepare_model",)),
    ("training", ("extra_loss", "training_rules", "training_batch")),
)
"""Of a defense by others, the first family of which it overrides a hook is its own."""
_MARKERS = "osD^vP*X<>phd8"


def defense_family(name: str) -> str:
    """The family of a defense by its name, or of several joined by a plus.

    Args:
        name: As in the column `defense` of a leaderboard.
    """
    families = {_family(part) for part in name.split("+")}
    return families.pop() if len(families) == 1 else "combined"


def _family(name: str) -> str:
    if name == "none":
        return name
    for family, names in _BUILT_IN.items():
        if name in names:
            return family
    if name not in DEFENSES.names():
        return "other"
    defense = DEFENSES.get(name)
    for family, hooks in _HOOKS:
        if any(getattr(defense, hook) is not getattr(Defense, hook) for hook in hooks):
            return family
    return "other"


def family_looks(defenses: list[str]) -> dict[str, Look]:
    """A look for each defense: the colour of its family, and a marker of its own for the first fourteen.

    Args:
        defenses: Names, in the order in which markers are given out.
    """
    return {
        name: Look(FAMILIES[defense_family(name)], _MARKERS[place % len(_MARKERS)], place // len(_MARKERS) % 2 == 0, "-")
        for place, name in enumerate(dict.fromkeys(defenses))
    }
