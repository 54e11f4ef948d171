"""Subspace attack: row spaces of the first block's gradients against the known patch and position embedding.

The rows of that gradient span the normalised tokens, masked, shuffled or not. Each position asks of its patch to lie in that
space: a linear system per position, without position gradient, label or iteration. What masked patches (MJP) leave open, the
gradients of the position rows decide (`token_gradients`), and the first MLP's activations tell masked patches apart. Without
position embedding all patches are found like the masked ones, in no order. Ours; derivation and limits in attacks/README.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from privbench.adversary import Simulation, simulate, with_pixels_in_place
from privbench.closed_form.activations import Activations
from privbench.closed_form.combinations import Combinations
from privbench.closed_form.embedding import PatchEmbedding, require_tokens, token_gradients
from privbench.closed_form.first_block import FirstBlock
from privbench.closed_form.masked_search import MaskedSearch
from privbench.closed_form.moments import Moments
from privbench.closed_form.smoothness import smooth_precision
from privbench.closed_form.tokens import Tokens
from privbench.closed_form.without_positions import PLAUSIBLE, require_without_positions, without_positions
from privbench.core import Attack, ModelInput, Observation, Progress, Reconstruction, UserError
from privbench.core.patches import from_patches, to_patches
from privbench.jigsaw import reassembled

__all__ = ["Subspace"]

_NO_FIT = "row-space-does-not-fit"
_NOT_ALL = "patches-not-all-found"


class _Masked(Enum):
    """How far the patches that share a row were told apart; the value is the flag that says so."""

    COMMON = "masked-patches-not-separated"
    PARTLY = "masked-patches-partly-separated"
    SEPARATED = "masked-order-not-inferred"
    ORDERED = "masked-order-inferred"


class Subspace(Attack):
    """Patches from the row space of the first block's gradient, masks from what does not fit."""

    name: ClassVar[str] = "subspace"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "standard": {},
        "without-search": {"search": 0},
        "row-space-only": {"position_gradients": False, "search": 0},
    }

    position_gradients: bool = True
    """Whether the gradients of the position rows decide what patches that share a row (MJP) leave open; otherwise a smoothness
    prior alone decides it."""
    search: Annotated[int, Field(ge=0)] = 2
    """Rounds of starts from which masked patches, or all without positions, are searched by the first MLP's activations; 0: the
    moments alone."""
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 1.5e-2
    """Relative residual above which a position does not fit its own row and counts as masked."""

    def require(self, observation: Observation) -> None:
        """Refuses batches, and models whose equations are fewer than a patch's unknowns."""
        model = simulate(observation).model
        if model.parts().position is None:
            first = FirstBlock.of(model)
            names = [name for name in model.state_dict() if name.startswith("network.blocks.0.")]
            observation.require_parameters([first.qkv_name, *names], self.name)
            require_without_positions(observation, model, self.name)
            if not self.search:
                raise UserError("attack subspace finds patches without positions by its search; choose --set attack.search=2")
            return
        require_tokens(observation, model, self.name)
        first, embedding = FirstBlock.of(model), PatchEmbedding.of(model)
        if _has_combinations_alone(observation, embedding, first):
            missing = Combinations.missing(observation, embedding, first)
            if missing:
                raise UserError(f"attack subspace needs {missing}; choose --attack inverting-gradients")
            return
        observation.require_parameters((first.span_name,), self.name)
        pixels, tokens = embedding.weight.shape[1], embedding.token_count
        equations = first.equations(tokens)
        if equations < pixels + 1:
            raise UserError(
                f"attack subspace needs as many equations as a patch has unknowns, given {equations} (width "
                f"{equations + tokens} less {tokens} tokens) for {pixels + 1} in {observation.model.name}; choose --attack "
                "closed-form"
            )

    def run(self, observation: Observation, *, generator: torch.Generator, progress: Progress) -> Reconstruction:
        """Solves with all gradients up to the first block, or by the row space alone where the update is partial (`solved`)."""
        simulation = simulate(observation)
        model = simulation.model
        if model.parts().position is not None:
            embedding, block = PatchEmbedding.of(model), FirstBlock.of(model)
            if _has_combinations_alone(observation, embedding, block):
                return _combined(simulation, embedding, block, observation.gradients[block.down_name])
        first = [name for name, _ in model.named_parameters() if ".blocks." not in name and ".head." not in name]
        first += [name for name, _ in model.named_parameters() if ".blocks.0." in name]
        if model.parts().position is None or all(name in observation.update for name in first if ".norm." not in name):
            return self.solved(observation, generator=generator)
        found = self.model_copy(update={"position_gradients": False, "search": 0}).solved(observation, generator=generator)
        return replace(found, flags=(*found.flags, "row-space-only"))

    def solved(self, observation: Observation, *, generator: torch.Generator) -> Reconstruction:
        """Mask, separate, place: who uses the shared row, what each patch is, and where it stands.

        Masked patches come in no order; an adversary that is not `unaware` of the shuffle puts them, and all others that the
        client may have moved, in the order in which their borders fit.
        """
        simulation = simulate(observation)
        if simulation.model.parts().position is None:
            return self._without_positions(simulation, observation, generator)
        client = _Client.of(simulation, observation, self.tolerance)
        return _placed(client, self._separated(client, generator), generator)

    # Separate

    def _separated(self, client: "_Client", generator: torch.Generator) -> "_Patches":
        """All patches: the unmasked ones by their own equations, the masked ones told apart as far as that goes."""
        patches = self._with_their_own_rows(client)
        if not client.tokens.masked.any():
            return _Patches(patches)
        if client.embedding.unknown is None:
            return _Patches(patches, fits=False)
        return self._by_search(client, self._by_moments(client, patches), generator)

    def _with_their_own_rows(self, client: "_Client") -> Tensor:
        tokens, observation = client.tokens, client.observation
        if not (self.position_gradients and tokens.ambiguity.shape[1]):
            return tokens.likely(tokens.patches, client.precision)
        gradients = token_gradients(client.simulation.model, observation)
        return tokens.with_token_gradients(gradients, observation.gradients[client.block.output_name], client.precision)

    def _by_moments(self, client: "_Client", patches: Tensor) -> "_Patches":
        """Masked patches by the moments of both LayerNorms of the first block, or one common patch for all of them."""
        tokens, embedding, masked = client.tokens, client.embedding, client.tokens.masked
        patches, common = patches.clone(), tokens.shared_row_patch(client.precision)
        moments = (
            Moments.of(client.simulation.model, client.observation, tokens.space.rank) if self.position_gradients else None
        )
        found = None
        if moments is not None:
            known = patches[~masked] @ embedding.weight.T + embedding.bias + embedding.positions[~masked]
            others, both = torch.cat([embedding.prefix, known]), (moments.first, moments.second)
            found = tokens.shared_row_patches(moments.basis, both, others, common)
        if found is None or len(found) != int(masked.sum()):
            patches[masked] = common
            return _Patches(patches, _Masked.COMMON)
        plausible = embedding.excess(found) < PLAUSIBLE
        patches[masked] = torch.where(plausible[:, None], found, common)
        return _Patches(patches, _Masked.SEPARATED if plausible.all() else _Masked.PARTLY)

    def _by_search(self, client: "_Client", start: "_Patches", generator: torch.Generator) -> "_Patches":
        """The same by a search in the first MLP's activations; patches not found stay what the moments made of them."""
        model, tokens, observation = client.simulation.model, client.tokens, client.observation
        wanted = self.position_gradients and self.search > 0
        activations = Activations.of(model, observation, tokens.space.rank) if wanted else None
        if activations is None:
            return start
        search = MaskedSearch(observation, model, tokens, activations, client.precision)
        patches, found = search.patches(start.patches, self.search, generator)
        if found == int(tokens.masked.sum()):
            return _Patches(patches, _Masked.SEPARATED, found)
        partly = found and start.separation is _Masked.COMMON
        return _Patches(patches, _Masked.PARTLY if partly else start.separation, found)

    def _without_positions(
        self, simulation: Simulation, observation: Observation, generator: torch.Generator
    ) -> Reconstruction:
        """All patches, in the order in which their borders fit: no adversary has another."""
        model, embedding = simulation.model, PatchEmbedding.of(simulation.model)
        found = without_positions(model, observation, self.search, generator)
        # In what order a client may have put its patches beforehand has left no trace, so that nothing is stated of it.
        view, flags = replace(simulation.view, movable=None), list[str]()
        images, undone = simulation.undone(embedding.images(found.patches))
        losses = {
            "residual": found.residual,
            "found": float(found.found),
            "missing": float(found.missing),
            "rank": float(found.rank),
        }
        if not found.found:
            flags.append(_NO_FIT)
        else:
            everywhere = torch.ones(len(found.patches), dtype=torch.bool, device=observation.device)
            images, assembly = reassembled(images, embedding.patch_size, everywhere, generator=generator)
            losses["order_cost"] = assembly.cost
            flags.append("order-inferred")
            if not found.settled:
                flags.append(_NOT_ALL)
        return Reconstruction(
            images, losses=losses, flags=(*view.flags(view.inferred), *flags, *undone), inferred=view.inferred
        )


def _has_combinations_alone(observation: Observation, embedding: PatchEmbedding, block: FirstBlock) -> bool:
    """Whether what is sent of adapters does not span the tokens, so that combinations of them are all that there is."""
    enough = block.equations(embedding.token_count) > embedding.weight.shape[1]
    return block.adapter is not None and not (enough and block.span_name in observation.gradients)


def _combined(simulation: Simulation, embedding: PatchEmbedding, block: FirstBlock, rows: Tensor) -> Reconstruction:
    """The most likely image by the combinations of its tokens that the adapter of the first block shows."""
    view = simulation.view
    found = Combinations.of(embedding, block, rows)
    patches = found.patches(embedding.patch_size, whole=view.movable is None)
    images, undone = simulation.undone(embedding.images(patches))
    losses = {"combinations": float(len(found.sums)), "residual": float(found.errors.min())}
    return Reconstruction(images, losses=losses, flags=(*view.flags(view.inferred), "few-combinations", *undone))


@dataclass(frozen=True)
class _Client:
    """The client as the adversary rebuilds it, and its mask.

    Attributes:
        simulation: Model and view.
        observation: What was seen.
        embedding: Patches to tokens.
        block: LayerNorm and attention of the first block.
        tokens: What the row space of that attention's gradient says of all tokens: which are masked, and what they may be.
        precision: `[pixels, pixels]`, the smooth prior within a patch.
    """

    simulation: Simulation
    observation: Observation
    embedding: PatchEmbedding
    block: FirstBlock
    tokens: Tokens
    precision: Tensor

    @classmethod
    def of(cls, simulation: Simulation, observation: Observation, tolerance: float) -> "_Client":
        embedding, block = PatchEmbedding.of(simulation.model), FirstBlock.of(simulation.model)
        tokens = Tokens(embedding, block, block.token_space(observation, embedding.token_count), tolerance)
        precision = smooth_precision(embedding.patch_size).to(observation.device)
        return cls(simulation, observation, embedding, block, tokens, precision)


@dataclass(frozen=True)
class _Patches:
    """What separation leaves.

    Attributes:
        patches: `[patches, pixels]`, normalised, as the client's model was fed them.
        separation: How far masked patches are told apart; None where there are none.
        found: How many of them the search found.
        fits: Whether the mask can be one: the model has a shared row.
    """

    patches: Tensor
    separation: _Masked | None = None
    found: int = 0
    fits: bool = True


# Place


def _placed(client: _Client, separated: _Patches, generator: torch.Generator) -> Reconstruction:
    """The image: what the client did is undone, and what stands in no known order is ordered by borders."""
    simulation, embedding, tokens = client.simulation, client.embedding, client.tokens
    view, masked, separation = simulation.view, tokens.masked, separated.separation
    images, undone = simulation.undone(embedding.images(separated.patches))
    fitting = tokens.residuals[~masked] if not masked.all() else tokens.residuals
    losses = {
        "residual": float(fitting.max()),
        "masked": float(masked.sum()),
        "found": float(separated.found),
        "rank": float(tokens.space.rank),
        "gap": tokens.space.gap,
        "ambiguity": float(tokens.ambiguity.shape[1]),
    }
    inferred = view.inferred if view.inferred.mask is None else replace(view.inferred, mask=masked)
    movable = _movable(client, separation)
    if movable.any():
        images, assembly = reassembled(images, embedding.patch_size, movable, generator=generator)
        losses["order_cost"] = assembly.cost
        separation = _Masked.ORDERED if separation is _Masked.SEPARATED else separation
        if view.movable is not None:
            inferred = replace(inferred, order=assembly.undone)
    result = Reconstruction(images, losses=losses, inferred=inferred)
    if not movable.any() and not masked.any():
        result = with_pixels_in_place(result, simulation, generator=generator)
    told = () if separation is None else (separation.value,)
    flags = (*view.flags(result.inferred), *(() if separated.fits else (_NO_FIT,)), *told, *undone)
    return replace(result, flags=flags)


def _movable(client: _Client, separation: _Masked | None) -> Tensor:
    """`[patches]` bool: which places of the candidate hold patches in an order that is still to be found."""
    simulation, embedding, masked = client.simulation, client.embedding, client.tokens.masked
    view = simulation.view
    movable = torch.zeros_like(masked) if view.movable is None else view.movable.clone()
    shown = masked[:, None].expand(-1, embedding.weight.shape[1]).to(embedding.weight)
    places = from_patches(
        shown.reshape(1, -1, 3, embedding.patch_size, embedding.patch_size), *[embedding.image_size] * 2
    ).float()
    knows_of_masks = view.fed(ModelInput(places)).unknown_positions is not None
    if not knows_of_masks or separation is _Masked.COMMON:
        # One patch stands for all masked ones: there is nothing to order, and it fits no border.
        return movable & ~masked
    if separation in {_Masked.SEPARATED, _Masked.PARTLY}:
        # The oracle knows where the client put each masked patch, but not which of the recovered ones it is.
        moved, _ = simulation.undone(places)
        movable |= to_patches(moved, embedding.patch_size)[0, :, 0, 0, 0] > 0
    return movable
