"""From what an attack returned on one client batch to the rows of a record: paired, scored, with the names of its pictures."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from privbench.adversary import simulate
from privbench.core import Failure, ImageResult, Observation, Reconstruction, Secret
from privbench.core.flags import EMPTY_MASK, LOWER_BOUND
from privbench.replay import energy_shares, explained_alone
from privbench.runner.context import CaseContext
from privbench.runner.explained import with_explained_share
from privbench.runner.pictures import picture_names, png
from privbench.scoring import MetricSuite, failed_scores, score_batch, score_choices, to_uint8
from privbench.undo import explains_input

__all__ = ["ResultScorer", "ScoredBatch"]


@dataclass(frozen=True)
class ScoredBatch:
    """A scored batch.

    Attributes:
        images: One result per private image, in the order of the batch.
        pictures: File name within the case's folder to the content of a PNG file.
    """

    images: tuple[ImageResult, ...]
    pictures: dict[str, bytes]


class _Alone(NamedTuple):
    """Of an image of a batch: its share of the energy, and how much of its own gradient its reconstruction explains."""

    energy: float | None
    explained: float | None


class ResultScorer:
    """Scores the batches of one case.

    Args:
        context: The case.
        suite: What to measure.
    """

    def __init__(self, context: CaseContext, suite: MetricSuite) -> None:
        self._context = context
        self._suite = suite
        self._size = context.case.batch_size
        self._pictures = picture_names([context.images.image_name(index) for index in context.case.data.indices])

    def score(
        self, batch: int, observation: Observation, secret: Secret, result: Reconstruction | Failure, seconds: float
    ) -> ScoredBatch:
        """Scores one batch.

        Args:
            batch: Its number.
            observation: What the attack saw.
            secret: The truth.
            result: What the attack returned; a failure gets the worst scores.
            seconds: The batch's share of the attack's wall time.
        """
        if isinstance(result, Failure):
            return ScoredBatch(self._failed(batch, secret, result, seconds), {})
        result = with_explained_share(result, observation)
        return self._scored(batch, observation, secret, self._bounded(result, observation, secret), seconds)

    def _alone(self, observation: Observation, secret: Secret, guesses: Tensor) -> list[_Alone]:
        """What is told of each image of a batch by its own gradient."""
        if self._size == 1:
            return [_Alone(None, None)]
        simulation, device = simulate(observation), observation.device
        images, labels = secret.images.to(device), secret.labels.to(device)
        energy = energy_shares(simulation, observation.update, secret.fed.to(device), labels).tolist()
        explained = explained_alone(simulation, observation.update, guesses.to(device), images, labels)
        return [_Alone(*each) for each in zip(energy, explained, strict=True)]

    def _bounded(self, result: Reconstruction, observation: Observation, secret: Secret) -> Reconstruction:
        """The same, flagged where this adversary could not have found the private images: its score is a lower bound."""
        context = self._context
        if torch.equal(secret.fed, secret.images):
            return result
        view = context.defense.view(context.victim, observation.to(context.device))
        if explains_input(view, secret.images, secret.fed, context.victim.patch_size):
            return result
        return replace(result, flags=tuple(dict.fromkeys((*result.flags, LOWER_BOUND))))

    def _scored(
        self,
        batch: int,
        observation: Observation,
        secret: Secret,
        reconstruction: Reconstruction,
        seconds: float,
    ) -> ScoredBatch:
        images = reconstruction.images.detach().float().cpu()
        recovered = None if reconstruction.labels is None else reconstruction.labels.tolist()
        truth = secret.images.float().cpu()
        scored = score_batch(images, truth, self._suite)
        sources = [scores.source for scores in scored]
        alone = self._alone(observation, secret, images[sources].clamp(0, 1))
        chosen = self._context.defense.scored_choices(secret.choices)
        nothing_masked = chosen.mask is not None and not chosen.mask.any()
        flags = (*reconstruction.flags, EMPTY_MASK) if nothing_masked else tuple(reconstruction.flags)
        found = score_choices(
            reconstruction.inferred,
            chosen,
            images,
            truth,
            self._context.victim.patch_size,
            source=sources,
        )
        saved = to_uint8(images)
        results = tuple(
            ImageResult(
                image=self._name(batch, position),
                batch=batch,
                label=int(secret.labels[position]),
                recovered_label=None if recovered is None else int(recovered[scores.source]),
                mask_accuracy=choices.mask_accuracy,
                order_accuracy=choices.order_accuracy,
                scores=dict(scores.scores),
                scores_saved=dict(scores.scores_saved),
                explained=reconstruction.explained,
                energy=alone[position].energy,
                explained_alone=alone[position].explained,
                losses={name: float(value) for name, value in reconstruction.losses.items()},
                steps=reconstruction.steps,
                seconds=seconds / self._size,
                reconstruction=self._picture(batch, position),
                flags=flags,
            )
            for position, (scores, choices) in enumerate(zip(scored, found, strict=True))
        )
        return ScoredBatch(results, self._contents(batch, saved, sources))

    def _contents(self, batch: int, saved: Tensor, sources: Sequence[int]) -> dict[str, bytes]:
        return {self._picture(batch, position): png(saved[source]) for position, source in enumerate(sources)}

    def _failed(self, batch: int, secret: Secret, failure: Failure, seconds: float) -> tuple[ImageResult, ...]:
        worst = failed_scores(self._suite)
        return tuple(
            ImageResult(
                image=self._name(batch, position),
                batch=batch,
                label=int(label),
                recovered_label=None,
                scores=worst,
                scores_saved=worst,
                losses={},
                steps=0,
                seconds=seconds / self._size,
                reconstruction=None,
                failure=failure.reason,
            )
            for position, label in enumerate(secret.labels)
        )

    def _name(self, batch: int, position: int) -> str:
        return self._context.images.image_name(self._context.indices(batch)[position])

    def _picture(self, batch: int, position: int) -> str:
        return self._pictures[batch * self._size + position]
