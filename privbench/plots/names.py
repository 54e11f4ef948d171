"""The names of the figures, for `privbench figure` and its help."""

from collections.abc import Mapping

__all__ = ["FIGURES", "OPTIONS"]

FIGURES: Mapping[str, str] = {
    "gallery": "original, client's view and reconstruction, for each defense, attack and adversary",
    "trajectories": "losses over the steps of variants of an attack, and PSNR where it was scored; phases marked",
    "ablation": "gradvit without defense by the terms of its objective",
    "mask-ratio": "leakage under MJP against its mask ratio, with accuracy and consistency",
    "front": "what each defense leaves to its strongest attacker against the accuracy of its victim",
    "positions": "what position embeddings encode: similarity, projection, regression error",
    "settings": "leakage by batch size, resolution, trained or random weights, eval or train mode",
    "leakage-map": "gradvit restricted to groups of parameters (attack.layers)",
    "architectures": "models under the same attack",
}
"""Figure to the line that the help shows."""

_OF_RECORDS = FIGURES.keys() - {"positions"}
OPTIONS: Mapping[str, frozenset[str]] = {
    "metric": frozenset(_OF_RECORDS - {"gallery", "trajectories"}),
    "where": frozenset(_OF_RECORDS),
    "images": frozenset({"gallery"}),
    "weights": frozenset({"positions"}),
}
"""Option to the figures that take it."""
