"""Attacks on features side by side: the same images and public data, each adversary, with and without a defense."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from privbench.core import (
    Adversary,
    ComponentSpec,
    Defense,
    FeatureObservation,
    Interval,
    ModelSpec,
    Reconstruction,
    ThreatModel,
    UserError,
    unknown_name,
)
from privbench.features.client import observe_features
from privbench.features.decoder import FeatureDecoder
from privbench.features.matching import FeatureMatching
from privbench.models import Victim
from privbench.scoring import MetricSuite, bootstrap_interval, score_batch

__all__ = ["FEATURE_ATTACKS", "FeatureResults", "FeatureRow", "feature_attack", "feature_study"]

FEATURE_ATTACKS: Mapping[str, type[FeatureMatching] | type[FeatureDecoder]] = {
    FeatureMatching.name: FeatureMatching,
    FeatureDecoder.name: FeatureDecoder,
}
"""By name."""


def feature_attack(name: str, parameters: Mapping[str, Any]) -> FeatureMatching | FeatureDecoder:
    """An attack on features.

    Raises:
        UserError: There is none of this name, or it does not take these parameters.
    """
    if name not in FEATURE_ATTACKS:
        raise unknown_name("attack on features", name, FEATURE_ATTACKS)
    return FEATURE_ATTACKS[name].configured(parameters)


@dataclass(frozen=True)
class FeatureRow:
    """One attack by one adversary on the features behind one block.

    Attributes:
        defense: As a user would write it.
        block: Number of the block.
        attack: Name of the attack.
        adversary: What it knows of the defense.
        scores: Metric to mean with its 95 % interval over images.
        per_image: Metric to the value of each image.
        images: `[n, 3, height, width]`, what it found.
        flags: Remarks on what it believed.
    """

    defense: str
    block: int
    attack: str
    adversary: Adversary
    scores: Mapping[str, Interval]
    per_image: Mapping[str, tuple[float, ...]]
    images: Tensor
    flags: tuple[str, ...]


@dataclass(frozen=True)
class FeatureResults:
    """The rows of a study; a notebook shows their table.

    Attributes:
        rows: One for each defense, attack and adversary.
    """

    rows: tuple[FeatureRow, ...]

    def table(self) -> pd.DataFrame:
        """One row each: what was attacked by whom, and the mean of every metric with its 95 % interval."""
        return pd.DataFrame(
            [
                {
                    "defense": row.defense,
                    "block": row.block,
                    "attack": row.attack,
                    "adversary": row.adversary,
                    "n": len(row.images),
                    **{
                        f"{name}_{part}": getattr(interval, part)
                        for name, interval in row.scores.items()
                        for part in ("mean", "low", "high")
                    },
                }
                for row in self.rows
            ]
        )

    def by_image(self) -> pd.DataFrame:
        """One row for each image: what was attacked by whom, and the value of every metric."""
        return pd.DataFrame(
            [
                {
                    "defense": row.defense,
                    "block": row.block,
                    "attack": row.attack,
                    "adversary": row.adversary,
                    "image": number,
                    **{name: values[number] for name, values in row.per_image.items()},
                }
                for row in self.rows
                for number in range(len(row.images))
            ]
        )

    def save(self, path: Path | str) -> Path:
        """Writes a row for each image as CSV, six digits each.

        Raises:
            UserError: The file cannot be written.
        """
        path = Path(path)
        try:
            path.write_text(self.by_image().to_csv(index=False, lineterminator="\n", float_format="%.6g"), encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}; choose another --output") from None
        return path

    def _repr_html_(self) -> str:
        return str(self.table().to_html(index=False))


def feature_study(
    victim: Victim,
    model: ModelSpec,
    defense: Defense,
    declared: Sequence[ComponentSpec],
    images: Tensor,
    *,
    block: int,
    attacks: Sequence[FeatureMatching | FeatureDecoder],
    adversaries: Sequence[Adversary],
    public: Tensor | None,
    suite: MetricSuite,
    seed: int = 0,
    report: Callable[[str], None] = lambda _: None,
) -> list[FeatureRow]:
    """Attacks the features of images, each image a client of its own.

    Args:
        victim: The client's model, the defense's layers in it.
        model: Its architecture.
        defense: The client's.
        declared: The same as the client declares it.
        images: `[n, 3, height, width]` in [0, 1].
        block: Behind which block.
        attacks: Which.
        adversaries: Which.
        public: `[m, 3, height, width]` uint8, what decoders learn from; none of `images`. None where no attack is a decoder.
        suite: What to score by.
        seed: Of the clients' draws, the same for all attacks and adversaries, and of the attacks.
        report: Told what is done next.

    Returns:
        A row for each attack and adversary.

    Raises:
        UserError: As `observe_features`, or a decoder has nothing to learn from.
    """
    rows = []
    for attack in attacks:
        for adversary in adversaries:
            report(f"{attack.name}, {adversary}, block {block}")
            threat = ThreatModel(adversary=adversary)
            clients = []
            for number, image in enumerate(images):
                generator = torch.Generator().manual_seed(seed * 100_003 + number)
                made = observe_features(
                    victim,
                    model,
                    defense,
                    image[None],
                    block=block,
                    declared=declared,
                    threat_model=threat,
                    generator=generator,
                )
                clients.append(made[0])
            found = _attack(attack, clients, public, torch.Generator().manual_seed(seed))
            guesses = torch.cat([one.images for one in found]).float().cpu()
            scored = [
                score_batch(guess[None], image[None].float().cpu(), suite)[0]
                for guess, image in zip(guesses, images, strict=True)
            ]
            values = {name: tuple(one.scores[name] for one in scored) for name in scored[0].scores}
            scores = {name: bootstrap_interval(each, seed=seed) for name, each in values.items()}
            text = "+".join(map(str, declared)) or "none"
            rows.append(FeatureRow(text, block, attack.name, adversary, scores, values, guesses, found[0].flags))
    return rows


def _attack(
    attack: FeatureMatching | FeatureDecoder,
    clients: Sequence[FeatureObservation],
    public: Tensor | None,
    generator: torch.Generator,
) -> list[Reconstruction]:
    """What an attack makes of each client; a decoder is trained once, and an oracle goes on from there for each."""
    if isinstance(attack, FeatureMatching):
        return [attack.run(client, generator=generator) for client in clients]
    if public is None:
        raise UserError(f"attack {attack.name} learns from public images; name some with --public")
    _, decoder = attack.train(clients[0], public, generator=generator)
    state = {name: value.clone() for name, value in decoder.state_dict().items()}
    found = []
    for client in clients:
        decoder.load_state_dict(state)
        found.append(attack.decode(client, decoder, public, generator=generator))
    return found
