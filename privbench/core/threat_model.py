"""Under which assumptions an update is attacked: `ThreatModel`."""

from collections.abc import Mapping
from typing import Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict

__all__ = ["ADVERSARIES", "Adversary", "ThreatModel"]

_Choice = TypeVar("_Choice")

Adversary = Literal["unaware", "aware", "oracle"]
"""`unaware` simulates the undefended forward pass, `aware` knows the defense and its public parameters and infers its random
choices, `oracle` is also told those choices, never the image."""

ADVERSARIES: tuple[Adversary, ...] = get_args(Adversary)
"""All of them, weakest first."""


class ThreatModel(BaseModel):
    """What the attacker is assumed to know; every field is a column of the leaderboard."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    labels: Literal["recovered", "known"] = "recovered"
    """`recovered`: the attack must find the labels in the gradient; `known`: they are part of the observation."""
    model_mode: Literal["eval", "train"] = "eval"
    """Mode of the client's model while it computes the gradient (dropout and the like)."""
    adversary: Adversary = "unaware"
    """What the attacker knows of the defense."""
    training: Literal["known", "hidden"] = "known"
    """Whether the attacker is told how a client that sends a delta trained: optimiser, learning rate, steps, precision."""
    server: Literal["honest", "malicious"] = "honest"
    """Whether the server sends the model as agreed, or one that it changed to read updates (`servers`)."""

    @property
    def knows_defense(self) -> bool:
        """Whether the adversary knows which defense the client has."""
        return self.adversary != "unaware"

    @property
    def infers_choices(self) -> bool:
        """Whether the adversary knows the defense and has to find the client's random choices itself."""
        return self.adversary == "aware"

    def disclosed(self, choices: Mapping[str, _Choice]) -> Mapping[str, _Choice]:
        """What the adversary is told of the client's random choices."""
        return choices if self.adversary == "oracle" else {}
