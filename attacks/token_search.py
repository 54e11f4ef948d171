"""Token search: two images and more from one update, exactly, token by token.

The gradients of the first block's MLP test single tokens, the position rows say where a token may stand, and the attention
says which tokens belong to one image and what those still missing are. Neither label nor position gradient is used. Models
that are twice as wide as the batch has tokens need no search: there position rows tell places, and patches may have any size.
Ours; derivation, measurements and limits in docs/research/token-search.md. DAGER (Petrov et al., NeurIPS 2024) tests text
tokens of a vocabulary in a like way.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from privbench.adversary import Simulation, simulate
from privbench.attacks.closed_form import ClosedForm
from privbench.closed_form.activations import Activations
from privbench.closed_form.embedding import PatchEmbedding
from privbench.closed_form.first_block import FirstBlock
from privbench.core import Attack, Observation, Progress, Reconstruction, UserError
from privbench.defenses.mjp import masked_rows
from privbench.jigsaw import reassembled
from privbench.models import Victim
from privbench.refinement import refined, rest_of, unexplained
from privbench.sample_features import labels_of_images
from privbench.token_search.ending import Ending, SettledPatches
from privbench.token_search.found_tokens import FoundTokens
from privbench.token_search.own_gradients import OwnGradients, is_wide_enough
from privbench.token_search.recovery import BatchRecovery, DealtTokens

__all__ = ["TokenSearch"]

_PLACED_BY = 4
"""Equations that tell at least at which place a token stands."""
_HOPELESS = 0.1
"""Share of all tokens below which a first round says that the update is too noisy; without noise it finds most."""
_SLOW = 0.1
"""Share of all tokens below which a round of searches has found little."""
_SLOWLY_FROM = 0.45
"""The share of all tokens from which the attention is asked after such a round."""
_FROM_THE_REST = 1e-2
"""About how far pixels are off that the rest of an update gave."""
_LAYERS = ("attn.proj.weight", "mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight")


class TokenSearch(Attack):
    """Batches from the first block's gradients: tokens by search, images by attention."""

    name: ClassVar[str] = "token-search"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"standard": {}}

    rounds: Annotated[int, Field(gt=0)] = 12
    """Rounds of searches at most; a round asks every place that still lacks a token."""
    starts: Annotated[int, Field(gt=0)] = 6
    """Starts for each token of an image in the first round and every third one."""
    attention_from: Annotated[float, Field(gt=0, le=1)] = 0.66
    """Share of all tokens from which the attention is asked for the rest; where searches find little, it is asked earlier."""

    def require(self, observation: Observation) -> None:
        """Refuses single images, models without what it reads, and batches with more tokens than the model's width allows."""
        images, name = observation.batch_size, observation.model.name
        if images < 2:
            raise UserError(f"attack token-search takes batches of 2 images and more, given {images}; choose --attack subspace")
        model = simulate(observation).model
        position = model.parts().position
        FirstBlock.of(model)
        if position is None:
            raise UserError(
                f"attack token-search needs a learned position row for each patch, which {name} with defense "
                f"{observation.defense_text} does not have; choose --attack adjoint-matching"
            )
        needed = [position] if model.has_unknown_position else []
        observation.require_parameters((*needed, *(f"network.blocks.0.{layer}" for layer in _LAYERS)), self.name)
        width, pixels = PatchEmbedding.of(model).weight.shape
        tokens = _tokens(model, images)
        needed_width = tokens + pixels + 1 + _PLACED_BY
        if not _has_places(model, images) and _is_wide(model, images):
            observation.require_parameters(_embedded(model), self.name)
        elif not _has_places(model, images):
            other = "" if model.has_unknown_position else f" (or of {2 * tokens} for any patch)"
            raise UserError(
                f"attack token-search needs a width of {needed_width} for {tokens} tokens of {images} images and {pixels} "
                f"pixels of a patch{other}, given {width} in {name}; choose a smaller --batch-size or --attack adjoint-matching"
            )
        normed = not isinstance(cast(Any, model.network).blocks[0].attn.k_norm, nn.Identity)
        if normed or Activations.of(model, observation, tokens) is None:
            raise UserError(
                f"attack token-search needs a first block of LayerNorm, attention without normalised keys and an MLP "
                f"without gates, which {name} does not have; choose --attack adjoint-matching"
            )

    def run(self, observation: Observation, *, generator: torch.Generator, progress: Progress) -> Reconstruction:
        """Searches until all tokens are found or the rounds are over, then solves all patches of each image together."""
        simulation = simulate(observation)
        model, images = simulation.model, observation.batch_size
        # `require` has seen to it that there are some.
        activations = cast(Activations, Activations.of(model, observation, _tokens(model, images)))
        masked = torch.zeros(model.patch_count, dtype=torch.bool, device=observation.device)
        if model.has_unknown_position:
            masked = masked_rows(model, observation)
        if _is_wide(model, images) and observation.gradients.keys() >= set(_embedded(model)):
            own = OwnGradients.of(model, observation, activations, images)
            if own.patches is not None or not _has_places(model, images):
                return _of_own_gradients(simulation, observation, own, masked, generator)
        recovery = BatchRecovery(model, activations, masked, images)
        ending = Ending(recovery)
        found, searched = self._found(recovery, ending, observation, generator, progress)
        if searched is None:
            counts = {"found": float(len(found)), "missing": float(recovery.total - len(found))}
            return _grey(simulation, observation, counts)
        dealt, settled = searched
        if not settled.agreed and settled.all_but_one_agreed:
            found = ending.sharpened(found, dealt, settled)
            settled = ending.settled(found, dealt)
        pictures = _pictures(recovery, settled.patches)
        last = None if model.has_unknown_position else _last_one(simulation, observation, settled, pictures)
        if last is not None:
            found = recovery.with_pictures(found, last)
            settled = ending.settled(found, ending.with_the_last(found, dealt, settled.each_agreed, last))
            pictures = _pictures(recovery, settled.patches)
        labels = labels_of_images(simulation, observation, pictures)
        spread = settled.spread
        if last is not None and labels is not None and not settled.agreed:
            pictures, spread = _better(simulation, observation, settled, pictures, last, labels)
        whole = settled.agreed or last is not None
        if whole and labels is not None and not settled.precise.all() and not model.has_unknown_position:
            pictures = refined(simulation, observation, pictures, labels, spread, progress)
        losses = {
            "found": float(len(found)),
            "missing": float(recovery.total - len(found)),
            "residual": float(activations.missed(found.directions).max()),
        }
        result = _postprocessed(simulation, pictures, masked, losses, settled.agreed, generator)
        return replace(result, labels=labels)

    def _found(
        self,
        recovery: BatchRecovery,
        ending: Ending,
        observation: Observation,
        generator: torch.Generator,
        progress: Progress,
    ) -> tuple[FoundTokens, tuple[DealtTokens, SettledPatches] | None]:
        """Rounds of searches, and between them as many of the attention as find something; None where it is hopeless."""
        kept = progress.restore()
        found, first = recovery.restored(kept, generator) if kept else (recovery.from_moments(observation), 0)
        for number in range(first, self.rounds):
            if len(found) == recovery.total:
                break
            had = len(found)
            found = recovery.searched(found, self.starts, number, generator)
            slow = number > 0 and len(found) - had < _SLOW * recovery.total
            least = (_SLOWLY_FROM if slow else self.attention_from) * recovery.total
            before, dealt = 0, None
            while before < len(found) < recovery.total and len(found) >= least:
                before = len(found)
                found, dealt = recovery.completed(found, dealt)
                progress.picture(number + 1, _pictures(recovery, dealt.patches))
            ended = None if dealt is None or len(found) == recovery.total else (dealt, ending.settled(found, dealt))
            progress.report(number + 1, self.rounds, "search", {"missing": float(recovery.total - len(found))})
            progress.save(recovery.checkpoint(found, number + 1, generator))
            if len(found) < _HOPELESS * recovery.total:
                break
            if ended is not None and ended[1].all_but_one_agreed:
                return found, ended
        if len(found) < _HOPELESS * recovery.total:
            return found, None
        dealt = recovery.dealt(found)
        return found, (dealt, ending.settled(found, dealt))


def _tokens(model: Victim, images: int) -> int:
    """Tokens of a batch; behind the attention those of the prefix are another in each image."""
    return images * (len(PatchEmbedding.of(model).prefix) + model.patch_count)


def _has_places(model: Victim, images: int) -> bool:
    """Whether equations are left that say where a token stands."""
    width, pixels = PatchEmbedding.of(model).weight.shape
    return width >= _tokens(model, images) + pixels + 1 + _PLACED_BY


def _is_wide(model: Victim, images: int) -> bool:
    """Whether the batch can be read off the gradients of single tokens."""
    embedding, blocks = PatchEmbedding.of(model), len(cast(Any, model.network).blocks)
    return not model.has_unknown_position and is_wide_enough(len(embedding.weight), _tokens(model, images), blocks)


def _embedded(model: Victim) -> list[str]:
    """The parameters of the embedding, without which the gradients of single tokens are not told."""
    parts, trained = model.parts(), dict(model.named_parameters())
    every = (parts.patch_weight, parts.patch_bias, parts.position, *parts.prefix_names)
    return [name for name in every if name is not None and name in trained]


def _grey(simulation: Simulation, observation: Observation, losses: Mapping[str, float]) -> Reconstruction:
    """Where next to nothing is found."""
    grey = torch.full((observation.batch_size, *observation.image_shape), 0.5, device=observation.device)
    flags = (*simulation.view.flags(simulation.view.inferred), "row-space-does-not-fit")
    return Reconstruction(grey, losses=losses, flags=flags)


def _of_own_gradients(
    simulation: Simulation, observation: Observation, own: OwnGradients, masked: Tensor, generator: torch.Generator
) -> Reconstruction:
    """The images of tokens that are all known; grey where they are not."""
    total = observation.batch_size * simulation.model.patch_count
    losses = {"found": float(own.found), "missing": float(total - own.found), "residual": own.residual}
    if own.patches is None:
        return _grey(simulation, observation, losses)
    embedding = PatchEmbedding.of(simulation.model)
    pictures = torch.cat([embedding.images(image) for image in own.patches])
    labels = labels_of_images(simulation, observation, pictures)
    return replace(_postprocessed(simulation, pictures, masked, losses, True, generator), labels=labels)


def _pictures(recovery: BatchRecovery, patches: Tensor) -> Tensor:
    return torch.cat([recovery.embedding.images(image) for image in patches])


def _last_one(simulation: Simulation, observation: Observation, settled: SettledPatches, pictures: Tensor) -> Tensor | None:
    """`[1, 3, height, width]`: where all images but one are exact, that one from what they leave of the update."""
    known = settled.each_agreed
    labels = labels_of_images(simulation, observation, pictures)
    if settled.agreed or not settled.all_but_one_agreed or labels is None:
        return None
    rest = rest_of(simulation, observation, pictures[known], labels[known])
    return None if rest is None else ClosedForm()(rest, generator=torch.Generator().manual_seed(0)).images


def _better(
    simulation: Simulation,
    observation: Observation,
    settled: SettledPatches,
    pictures: Tensor,
    last: Tensor,
    labels: Tensor,
) -> tuple[Tensor, Tensor]:
    """The image that did not come to agree with its tokens as these have it, or as the rest of the update has it."""
    apart = ~settled.each_agreed
    other, spread = pictures.clone(), settled.spread.clone()
    other[apart], spread[apart] = last.to(pictures), _FROM_THE_REST
    as_tokens, as_rest = (unexplained(simulation, observation, images, labels) for images in (pictures, other))
    return (other, spread) if as_rest < as_tokens else (pictures, settled.spread)


def _postprocessed(
    simulation: Simulation,
    fed: Tensor,
    masked: Tensor,
    losses: Mapping[str, float],
    complete: bool,
    generator: torch.Generator,
) -> Reconstruction:
    """The images behind what the client's model was fed, patches in order where an adversary knows that they were moved.

    Patches with their own rows stand in one order for the whole batch; those that share the unknown row stand anyhow.
    """
    view = simulation.view
    pictures, undone = simulation.undone_in_any_order(fed)
    movable, flags, inferred = view.movable, list[str](), view.inferred
    if inferred.mask is not None:
        inferred = replace(inferred, mask=masked)
    if movable is not None and movable.sum() > 1 and simulation.model.patch_size is not None:
        jointly = not bool((masked & movable).any())
        pictures, assembly = reassembled(pictures, simulation.model.patch_size, movable, generator=generator, jointly=jointly)
        losses, inferred = {**losses, "order_cost": assembly.cost}, replace(inferred, order=assembly.undone)
        if masked.any():
            flags.append("masked-order-inferred")
    elif masked.any():
        flags.append("masked-order-not-inferred")
    if not complete:
        flags.append("patches-not-all-found")
    return Reconstruction(pictures, losses=losses, flags=(*view.flags(inferred), *flags, *undone), inferred=inferred)
