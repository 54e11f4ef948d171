"""Two images in one update: each step of the token search from what the steps before it lead to."""

from dataclasses import dataclass, replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from privbench.adversary import simulate
from privbench.closed_form.activations import Activations
from privbench.closed_form.first_block import centred
from privbench.core import Secret
from privbench.core.patches import to_patches
from privbench.defenses.mjp import masked_rows
from privbench.token_search.attention import FirstAttention
from privbench.token_search.ending import Ending
from privbench.token_search.found_tokens import FoundTokens
from privbench.token_search.recovery import BatchRecovery, DealtTokens
from privbench.token_search.token_fit import fitted
from tests.attacks.closed_forms import psnr, update

pytestmark = pytest.mark.integration

PATCHES = 64


@dataclass(frozen=True)
class Batch:
    """Two photos in one update, with the truth that the tests compare with.

    Attributes:
        secret: The photos.
        recovery: What is read off the update.
        directions: `[2, patches, rank]`, of the true tokens.
        found: All of them, as the search would have found them.
        owner: `[tokens]`, the photo of each.
    """

    secret: Secret
    recovery: BatchRecovery
    directions: Tensor
    found: FoundTokens
    owner: Tensor

    def without(self, number: int) -> FoundTokens:
        """What is found but for some tokens, taken from all over the batch."""
        kept = torch.randperm(len(self.found), generator=torch.Generator().manual_seed(3))[number:].sort().values
        return FoundTokens(**{name: getattr(self.found, name)[kept] for name in FoundTokens.__dataclass_fields__})


def _batch(defense: str = "none") -> Batch:
    observation, secret = update(defense, batch=2, adversary="aware")
    model = simulate(observation).model
    activations = Activations.of(model, observation, 2 * (PATCHES + 1))
    assert activations is not None
    masked = masked_rows(model, observation) if model.has_unknown_position else torch.zeros(PATCHES, dtype=torch.bool)
    recovery = BatchRecovery(model, activations, masked, 2)
    patches = to_patches((secret.fed.double() - model.mean) / model.std, 4).flatten(2)
    with torch.no_grad():
        tokens = patches @ recovery.embedding.weight.T + recovery.places.rows[recovery.place]
        after = recovery.attention.after(tokens)
    directions = nn.functional.normalize(centred(after) @ activations.basis, dim=2)
    found = recovery.with_candidates(recovery.none(), directions.flatten(0, 1))
    near = torch.stack([torch.cdist(found.directions, photo) for photo in directions]).min(dim=2).values
    return Batch(secret, recovery, directions, found, near.argmin(dim=0))


@pytest.fixture(scope="module")
def batch() -> Batch:
    return _batch()


def test_the_equations_of_a_place_know_its_tokens(batch: Batch) -> None:
    misfits = batch.recovery.places.misfits(batch.directions.flatten(0, 1)).reshape(2, PATCHES, PATCHES)
    own = misfits.diagonal(dim1=1, dim2=2)
    assert own.max() < 0.01
    assert torch.where(torch.eye(PATCHES).bool(), torch.inf, misfits).min() > 0.05


def test_every_true_token_passes_and_gives_its_patch(batch: Batch) -> None:
    assert len(batch.found) == 2 * PATCHES
    assert not batch.found.missing(batch.recovery.places).any()
    model = batch.recovery.model
    true = to_patches((batch.secret.images.double() - model.mean) / model.std, 4).flatten(2)
    assert (batch.found.patches - true[batch.owner, batch.found.places]).abs().max() < 0.02


def test_a_search_that_starts_near_a_token_ends_there_and_a_mixture_is_no_token(batch: Batch) -> None:
    recovery = batch.recovery
    gaussian, places = recovery.search.expected, torch.arange(PATCHES)
    true = recovery.places.lengths(batch.directions[0], places)
    numbers = torch.linalg.lstsq(gaussian.moves, (true - gaussian.centres(recovery.search.prior.mean, places)).T).solution.T
    centres = gaussian.centres(recovery.search.prior.mean, places)
    ends, missed = fitted(recovery.activations, centres, gaussian.moves, numbers)
    reached = recovery.with_candidates(recovery.none(), ends[missed < 0.045])
    assert len(reached) > PATCHES * 0.9
    mixed = nn.functional.normalize(batch.directions.sum(dim=0), dim=1)
    assert (recovery.activations.missed(mixed) > 10 * recovery.activations.missed(batch.directions[0])).all()


@pytest.mark.parametrize("missing", [0, pytest.param(24, marks=pytest.mark.nightly)])
def test_the_attention_tells_whose_a_token_is(batch: Batch, missing: int) -> None:
    found = batch.without(missing)
    dealt = batch.recovery.dealt(found)
    near = torch.stack([torch.cdist(found.directions, photo) for photo in batch.directions]).min(dim=2).values.argmin(dim=0)
    kept = [image[image >= 0] for image in dealt.tokens]
    assert sum(map(len, kept)) == len(found)
    assert all(len(set(near[tokens].tolist())) == 1 for tokens in kept)


def test_patches_that_share_the_unknown_row_are_dealt_too() -> None:
    batch = _batch("mjp:mask_ratio=0.1")
    masked = batch.recovery.masked
    assert int(masked.sum()) > 1
    dealt = batch.recovery.dealt(batch.found)
    assert len(batch.found) == 2 * PATCHES
    assert (dealt.tokens >= 0).all()
    assert all(len(set(batch.owner[tokens].tolist())) == 1 for tokens in dealt.tokens)


def test_a_deal_goes_on_from_an_earlier_one(batch: Batch) -> None:
    before, after = batch.recovery.dealt(batch.without(12)), batch.recovery.dealt(batch.found)
    again = batch.recovery.dealt(batch.found, before).tokens
    assert torch.equal(again, after.tokens) or torch.equal(again.flip(0), after.tokens)


@pytest.mark.parametrize("missing", [6, pytest.param(20, marks=pytest.mark.nightly)])
def test_the_attention_finds_the_tokens_that_are_missing(batch: Batch, missing: int) -> None:
    found, dealt = batch.recovery.completed(batch.without(missing))
    assert len(found) == 2 * PATCHES
    assert int((dealt.tokens < 0).sum()) == missing
    assert _worst(batch, found, batch.recovery.dealt(found, dealt)) > 60


def test_the_last_image_gets_all_tokens_that_are_not_of_the_others(batch: Batch) -> None:
    dealt = batch.recovery.dealt(batch.found)
    owner = int(batch.owner[dealt.tokens[1, 0]])
    lacking = DealtTokens(dealt.patches, torch.stack([dealt.tokens[0], torch.full_like(dealt.tokens[1], -1)]))
    picture = batch.secret.images[owner : owner + 1]
    last = Ending(batch.recovery).with_the_last(batch.found, lacking, torch.tensor([True, False]), picture)
    assert torch.equal(last.tokens, dealt.tokens)
    assert (batch.owner[last.tokens[1]] == owner).all()


def test_a_token_that_is_known_badly_is_polished_again_from_the_image_that_agrees(batch: Batch) -> None:
    recovery, bad = batch.recovery, 7
    ending, dealt = Ending(recovery), recovery.dealt(batch.found)
    settled = ending.settled(batch.found, dealt)
    assert settled.agreed
    directions = batch.found.directions.clone()
    noise = torch.randn(directions.shape[1], generator=torch.Generator().manual_seed(0)).to(directions)
    directions[bad] = nn.functional.normalize(directions[bad] + 0.01 * nn.functional.normalize(noise, dim=0), dim=0)
    again = ending.sharpened(replace(batch.found, directions=directions), dealt, settled)
    missed = recovery.activations.missed
    assert missed(again.directions)[bad] < 0.1 * missed(directions)[bad]
    assert (again.patches[bad] - batch.found.patches[bad]).abs().max() < 1e-3
    assert (missed(again.directions) <= missed(directions) * 1.01).all()


def _worst(batch: Batch, found: FoundTokens, dealt: DealtTokens) -> float:
    """The lower PSNR of the two photos, all patches solved together."""
    settled = Ending(batch.recovery).settled(found, dealt)
    assert settled.agreed
    images = torch.cat([batch.recovery.embedding.images(image) for image in settled.patches])
    orders = ([0, 1], [1, 0])
    return max(min(psnr(images[a], batch.secret.images[b]) for a, b in enumerate(order)) for order in orders)


def test_a_checkpoint_brings_back_tokens_round_and_draws(batch: Batch) -> None:
    generator = torch.Generator().manual_seed(1)
    state = batch.recovery.checkpoint(batch.found, 4, generator)
    drawn, other = torch.rand(3, generator=generator), torch.Generator().manual_seed(2)
    found, round_ = batch.recovery.restored(state, other)
    assert (len(found), round_) == (len(batch.found), 4)
    assert torch.equal(torch.rand(3, generator=other), drawn)


def test_the_attention_in_parts_is_the_models_own() -> None:
    observation, secret = update(batch=2)
    model = simulate(observation).model
    attention = FirstAttention.of(model)
    network = cast(Any, model.network)
    kept: list[Tensor] = []
    hook = network.blocks[0].norm2.register_forward_pre_hook(lambda _, given: kept.append(given[0]))
    model.double()(secret.images.double())
    hook.remove()
    with torch.no_grad():
        patches = network.patch_embed((secret.images.double() - model.mean) / model.std)
        assert torch.allclose(attention.after(patches + model.patch_positions()), kept[0][:, 1:], atol=1e-9)


def test_an_image_without_tokens_is_filled_from_the_other(batch: Batch) -> None:
    found = batch.without(2 * PATCHES - 8)
    dealt = batch.recovery.dealt(found)
    assert torch.isfinite(dealt.patches).all()
    assert dealt.patches.shape == (2, PATCHES, 48)


def test_keys_and_values_change_as_their_derivatives_say() -> None:
    attention = FirstAttention.of(simulate(update()[0]).model)
    draw = torch.Generator().manual_seed(0)
    tokens, moves = (torch.randn(3, 192, generator=draw, dtype=torch.float64) for _ in range(2))
    keys, values = attention.changes(tokens, moves.T)
    step = 1e-6 * moves[1]
    with torch.no_grad():
        _, key, value = attention.parts(tokens + step)
        _, key_before, value_before = attention.parts(tokens - step)
    assert torch.allclose((key - key_before).transpose(0, 1) / 2e-6, keys[..., 1], atol=1e-6)
    assert torch.allclose((value - value_before).transpose(0, 1) / 2e-6, values[..., 1], atol=1e-6)
