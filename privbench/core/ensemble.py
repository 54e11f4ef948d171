"""Ensembles: a fixed list of attacks in the place of one, so that a defense is worth what its strongest attacker leaves.

After AutoAttack (Croce and Hein, ICML 2020, arXiv 2003.01690), transposed from robustness to privacy. An ensemble takes no
parameters: numbers of different defenses compare because nobody could tune it.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from privbench.core.case import Case
from privbench.core.errors import UserError
from privbench.core.registry import ATTACKS, ENSEMBLES
from privbench.core.spec import ComponentSpec
from privbench.core.threat_model import ADVERSARIES, Adversary

if TYPE_CHECKING:
    from privbench.core.attack import Attack
    from privbench.core.defense import Defense

__all__ = ["Ensemble", "adversaries_up_to", "ensemble_members", "image_priors", "is_ensemble"]


@dataclass(frozen=True)
class Ensemble:
    """Attacks that are run one after another on whatever the earlier ones have not recovered.

    Attributes:
        summary: What it is for, in one sentence.
        attacks: Registered names, cheapest first; each is run with its first preset.
        recovered: PSNR in dB, aligned, from which an image counts as recovered and is not attacked again.
        draws: How often the client's random choices are drawn anew; scores are means over the draws.
    """

    summary: str
    attacks: tuple[str, ...]
    recovered: float = 40.0
    draws: int = 1

    def spec(self, name: str) -> ComponentSpec:
        """The ensemble as a case holds it: every member with all its parameters.

        Args:
            name: The name that it is registered under.
        """
        members = [
            {"name": attack, "parameters": ATTACKS.get(attack).from_preset(None, {}).parameters()} for attack in self.attacks
        ]
        return ComponentSpec(name=name, parameters={"members": members, "recovered": self.recovered, "draws": self.draws})


def is_ensemble(case: Case) -> bool:
    """Whether the attack of a case is an ensemble."""
    return case.attack.name in ENSEMBLES.names()


def ensemble_members(case: Case) -> tuple[Ensemble, list[ComponentSpec]]:
    """The ensemble of a case, and its members.

    Raises:
        UserError: The case was resolved with another version of the ensemble or of one of its attacks.
    """
    name = case.attack.name
    ensemble: Ensemble = ENSEMBLES.get(name)
    if ensemble.spec(name) != case.attack:
        raise UserError(
            f"the case has another version of ensemble {name} than this privbench; "
            f"name it with --attack {name} to make a new case of it"
        )
    return ensemble, _members(case.attack)


def _members(ensemble: ComponentSpec) -> list[ComponentSpec]:
    return [ComponentSpec.model_validate(member) for member in ensemble.parameters["members"]]


def image_priors(attack: ComponentSpec) -> tuple[str, ...]:
    """The image priors of an attack, or of the attacks of an ensemble, as `privbench.models.load_prior` takes them.

    Raises:
        UserError: There is no such attack, or it does not take these parameters.
    """
    if attack.name in ENSEMBLES.names():
        return tuple(dict.fromkeys(prior for member in _members(attack) for prior in image_priors(member)))
    built: Attack = ATTACKS.get(attack.name).configured(attack.parameters)
    return built.image_priors()


def adversaries_up_to(strongest: Adversary, defense: "Defense") -> list[Adversary]:
    """The adversaries that an ensemble tries, weakest first.

    Args:
        strongest: The one of the case's threat model.
        defense: What they face; where it changes nothing in an attacker's simulation, all adversaries are the unaware one.
    """
    if not defense.is_simulated():
        return list(ADVERSARIES[:1])
    return list(ADVERSARIES[: ADVERSARIES.index(strongest) + 1])
