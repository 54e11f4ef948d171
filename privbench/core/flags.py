"""Flags of records that more than one room speaks of; what all of them mean is in `analysis/flags.py`."""

from collections.abc import Mapping

__all__ = ["EMPTY_MASK", "ENSEMBLE_FLAGS", "EXPLAINED_LIMIT", "LOWER_BOUND", "NOT_EXPLAINED"]

EXPLAINED_LIMIT = 0.4
"""Below this explained share a row is flagged; docs/guide/scores.md has what it was calibrated on."""

NOT_EXPLAINED = "update-not-explained"
"""Flag of a row whose reconstructions explain less than `EXPLAINED_LIMIT` of the update."""

LOWER_BOUND = "input-not-undone"
"""Flag of a row whose adversary could not get from what the client fed its model to the private image."""

EMPTY_MASK = "mask-empty"
"""Flag of a row in which some client's mask covered no patch, so that its score says nothing of masking."""

ENSEMBLE_FLAGS: Mapping[str, str] = {
    "only-unaware-attackers": "no attacker who knows of the defense was run; --adversary aware runs them",
    "randomised-defense-once": "the defense is random and was drawn once; --attack rand draws it three times",
    "zero-gradient": "some parameter's gradient is zero in every entry: attacks that need it see nothing",
    "weaker-beat-stronger": "an attack that knows less ended at least 0.5 dB above the same attack that knows more",
    "loss-fell-score-did-not": "an attack matched the gradient, and its images are no nearer to the truth than mid-grey",
    "every-attack-failed": "no attack returned anything for some image, which gets the worst scores",
}
"""Reliability flags of an ensemble's record, and what they mean."""
