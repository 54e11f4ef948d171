"""A `CaseContext` holds what a case names (images, defense, victim, client updates), each loaded or computed once.

Checking a case, choosing how many batches are attacked together, attacking, scoring and drawing all use it. An ensemble's
members share the context of their ensemble, because attacks and adversaries face the same client. Nothing is written here.
"""

from collections import OrderedDict
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from privbench.client import as_seen, observe
from privbench.core import (
    ATTACKS,
    Attack,
    Case,
    Defense,
    Observation,
    Secret,
    UserError,
    VictimSpec,
    build_defense,
    build_server,
    ensemble_members,
    generator_for,
    is_ensemble,
)
from privbench.data import ImageSet, open_images
from privbench.models import Victim, load_victim, prior_sha256
from privbench.models.checkpoints import RESAMPLED
from privbench.models.parts import trained_names
from privbench.servers.suspicion import suspicion

__all__ = ["CaseContext", "Here", "load_case"]

_ROUNDING = 1e-3
"""Relative difference of two gradients that devices may make by the order of their sums."""
_PUBLIC, _LEAST_PUBLIC = 500, 64
"""Public images that a malicious server uses, and how many it needs at least."""
_AT_ONCE = 64
"""Public images that are classified together."""
_KEPT_BYTES = 2 * 2**30
"""So many bytes of observations are kept; older ones are computed again when they are asked for once more."""


class _Updates:
    """The client updates of one client, by what decides them; observations up to `_KEPT_BYTES`, secrets all."""

    def __init__(self) -> None:
        self._observations: OrderedDict[int, Observation] = OrderedDict()
        self._secrets: dict[int, Secret] = {}

    def observation(self, key: int) -> Observation | None:
        return self._observations.get(key)

    def secret(self, key: int) -> Secret | None:
        return self._secrets.get(key)

    def keep(self, key: int, observation: Observation, secret: Secret) -> None:
        self._observations[key], self._secrets[key] = observation, secret
        while len(self._observations) > 1 and sum(map(_bytes, self._observations.values())) > _KEPT_BYTES:
            self._observations.popitem(last=False)


def _bytes(observation: Observation) -> int:
    tensors = (*observation.update.values(), *observation.model_state.values())
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@dataclass(frozen=True)
class Here:
    """Where the files of a case lie on this machine; None: where the case says.

    They may have other names. That they are the same is checked by their content, which the case holds.

    Attributes:
        data: The private images, as `--data` takes them.
        weights: The victim's weights.
    """

    data: str | None = None
    weights: Path | None = None


@dataclass(frozen=True)
class CaseContext:
    """Everything that a case names.

    Attributes:
        case: The case.
        images: Its data set, with labels that the victim knows.
        defense: Its defenses as one.
        victim: The client's model, on the device.
        device: Where to compute.
        updates: What the client sent, as far as it was computed.
        here: Where its files lie.
    """

    case: Case
    images: ImageSet
    defense: Defense
    victim: Victim
    device: torch.device
    updates: _Updates
    here: Here = Here()

    @property
    def batches(self) -> int:
        """Number of client batches."""
        return len(self.case.data.indices) // self.case.batch_size

    def indices(self, batch: int) -> tuple[int, ...]:
        """Positions of a batch's images in the data set."""
        size = self.case.batch_size
        return self.case.data.indices[batch * size : (batch + 1) * size]

    @cached_property
    def attack(self) -> Attack:
        """The attack; an ensemble is none.

        Raises:
            UserError: There is no such attack, or it does not take these parameters.
        """
        attack: Attack = ATTACKS.get(self.case.attack.name).configured(self.case.attack.parameters)
        return attack

    def sent_model(self) -> dict[str, float | int]:
        """What a malicious server's changes cost and show, by the names of a record's fields; nothing of an honest one."""
        if self.case.server is None:
            return {}
        found: dict[str, float | int] = {"suspicion": suspicion(self.victim)}
        public = _public(self.case, self.images)
        if public is not None:
            images, labels = public
            with torch.no_grad():
                chosen = torch.cat(
                    [self.victim(part.to(self.device)).argmax(1).cpu() for part in torch.split(images, _AT_ONCE)]
                )
            found["manipulated_accuracy"] = float((chosen == labels).double().mean())
            found["manipulated_accuracy_images"] = len(labels)
        return found

    @property
    def flags(self) -> frozenset[str]:
        """What a reader of the scores must know of images and victim."""
        flags = {*self.images.flags, *self.victim.flags}
        if self.case.victim.weights == "random":
            flags.add("random-weights")
        return frozenset(flags)

    def observe(self, batch: int) -> tuple[Observation, Secret]:
        """The client's update for one batch and the client's secret, the same at every call.

        Raises:
            UserError: Images, labels, model and defense do not fit.
        """
        generator = generator_for(self.case, "client", batch)
        # The seed depends on all that decides the client's update, and on nothing of the attacker.
        key = generator.initial_seed()
        observation, secret = self.updates.observation(key), self.updates.secret(key)
        if observation is None or secret is None:
            observation, secret = self._observe(batch, generator)
            self.updates.keep(key, observation, secret)
        return as_seen(observation, secret, self.case.threat_model, self.case.local), secret

    def secret(self, batch: int) -> Secret:
        """The client's secret of one batch.

        Raises:
            UserError: As `observe`.
        """
        return self.updates.secret(generator_for(self.case, "client", batch).initial_seed()) or self.observe(batch)[1]

    def is_random(self) -> bool:
        """Whether what the client sends depends on its random choices: masks, orders, noise."""
        one, other = self.observe(0)[0].gradients, self._observe(0, torch.Generator().manual_seed(1))[0].gradients
        return any(
            (gradient - other[name]).norm() > _ROUNDING * gradient.norm().clamp_min(1e-30) for name, gradient in one.items()
        )

    def of(self, case: Case) -> "CaseContext":
        """The context of another case of the same client: another attack or adversary, or other images of the same set.

        Raises:
            UserError: As `load_case`.
        """
        if case.seed != self.case.seed:
            # Random victims follow from the seed.
            return load_case(case, self.device, self.here)
        _require_same_images(case, self.images, self.here)
        return replace(self, case=case)

    def require(self) -> None:
        """Checks that everything fits together, down to the first client update.

        Raises:
            UserError: It does not.
        """
        observation, _ = self.observe(0)
        if is_ensemble(self.case):
            ensemble_members(self.case)
        else:
            self.attack.require(observation)

    def _observe(self, batch: int, generator: torch.Generator) -> tuple[Observation, Secret]:
        images, labels = self.images.load(self.indices(batch), self.case.victim.model.image_size)
        return observe(
            self.victim,
            self.case.victim.model,
            self.defense,
            images.to(self.device),
            labels.to(self.device),
            declared=self.case.defense,
            threat_model=self.case.threat_model,
            generator=generator,
            training=self.case.local,
            server=self.case.server,
            trains=None if self.case.trains is None else trained_names(self.victim, self.case.trains),
        )


def load_case(case: Case, device: torch.device, here: Here | None = None) -> CaseContext:
    """Loads what a case names.

    Args:
        case: What to run.
        device: Where to compute.
        here: Where its files lie; None: where the case says.

    Raises:
        UserError: Something is missing, or is not what the case says.
    """
    if len(case.data.indices) % case.batch_size:
        raise UserError(
            f"{len(case.data.indices)} images do not fill batches of {case.batch_size}; "
            "choose a number of images that is a multiple of the batch size"
        )
    here = here or Here()
    images = open_images(here.data or case.data.source, split=case.data.split).for_classes(case.victim.model.num_classes)
    _require_same_images(case, images, here)
    _require_same_priors(case)
    defense = build_defense(case.defense)
    # The seed alone: random victims are the same for every attack and defense, so that those compare.
    victim = load_victim(_victim_here(case.victim, here.weights), defense, generator=torch.Generator().manual_seed(case.seed))
    server = build_server(case.server)
    if server is not None:
        server.prepare_model(victim)
        server.poison(victim, torch.Generator().manual_seed(case.seed), _public_images(case, images))
    return CaseContext(case, images, defense, victim.to(device), device, _Updates(), here)


def _victim_here(victim: VictimSpec, weights: Path | None) -> VictimSpec:
    """The victim with weights that lie elsewhere."""
    if weights is None:
        return victim
    if victim.weights_sha256 is None:
        raise UserError(f"the victim of the case has {victim.weights} weights, of no file; leave --weights out")
    prefix = RESAMPLED if victim.weights.startswith(RESAMPLED) else ""
    return victim.model_copy(update={"weights": f"{prefix}{weights.absolute()}"})


def _public_images(case: Case, images: ImageSet) -> Tensor | None:
    """What a server may know of its clients' data; None where that is little."""
    public = _public(case, images)
    return None if public is None else public[0]


def _public(case: Case, images: ImageSet) -> tuple[Tensor, Tensor] | None:
    """Images of the set that are not attacked, and their labels; None where there are few."""
    attacked = set(case.data.indices)
    others = [index for index in range(len(images) - 1, -1, -1) if index not in attacked][:_PUBLIC]
    return images.load(others, case.victim.model.image_size) if len(others) >= _LEAST_PUBLIC else None


def _require_same_images(case: Case, images: ImageSet, here: Here) -> None:
    found = images.fingerprint(case.data.indices, case.victim.model.image_size)
    if found != case.data.sha256:
        raise UserError(
            f"the images of {here.data or case.data.source} are not those of the case (sha256 {found[:12]}, the case has "
            f"{case.data.sha256[:12]}); name the right ones with --data"
        )


def _require_same_priors(case: Case) -> None:
    for prior, expected in case.prior_weights.items():
        found = prior_sha256(prior)
        if found != expected:
            raise UserError(
                f"the weights of the prior {prior} are not those of the case (sha256 {str(found)[:12]}, the case has "
                f"{expected[:12]}); name the attack with --attack to make a new case of it"
            )
