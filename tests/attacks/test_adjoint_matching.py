"""Adjoint matching: the simulated first block has the client's gradients, the adjoint starts at what the gradient tells."""

from typing import cast

import pytest
import torch
from torch import Tensor, nn

from privbench.adjoint import (
    ADJOINT,
    EQUATION_WEIGHTS,
    equation_weights,
    first_block_simulator,
    free_adjoint,
    has_free_adjoint,
    patch_equations,
    patch_sizes,
)
from privbench.adversary import simulate
from privbench.attacks.adjoint_matching import AdjointMatching
from privbench.client import observe
from privbench.core import ModelInput, Observation, Progress, ThreatModel, build_defense
from privbench.data import open_images
from privbench.inversion.exchange import image_of_each_place
from privbench.models import client_loss, load_victim, resolve_victim, tokens_after
from privbench.resolving.options import RunOptions
from privbench.resolving.resolve import resolve_cases
from privbench.runner.context import load_case
from tests.conformance import client_update


def _adjoint(observation: Observation, images: Tensor, labels: Tensor) -> Tensor:
    """The derivative of the client's loss by the first block's output, by a second model that starts there."""
    simulation = simulate(observation)
    given = simulation.view.fed(ModelInput(images), simulation.view.known)
    tokens = tokens_after(simulation.model, given, 1).detach().requires_grad_()
    network = simulation.model.network
    later = tokens
    for block in network.blocks[1:]:  # type: ignore[index]
        later = block(later)
    logits = network.forward_head(network.norm(later))  # type: ignore[operator]
    (slope,) = torch.autograd.grad(nn.functional.cross_entropy(logits, labels), [tokens])
    return slope


@pytest.mark.parametrize(("defense", "adversary"), [("none", "unaware"), ("mjp:mask_ratio=0.27", "oracle")])
def test_at_the_clients_image_and_adjoint_the_gradients_are_the_observed_ones(defense: str, adversary: str) -> None:
    update = client_update(defense, adversary=adversary, labels="known")
    observation, images = update.observation, update.secret.images
    simulation = simulate(observation)
    adjoint = free_adjoint(simulation, observation.gradients)
    slope = _adjoint(observation, images, update.secret.labels)
    simulate_first = first_block_simulator(simulation)
    names = [name for name in observation.gradients if ".head" not in name and ".norm." not in name and ".blocks.1" not in name]
    names = [name for name in names if ".blocks.2" not in name]
    parameters = {name: value for name, value in simulation.model.named_parameters() if name in names}
    context = {**simulation.view.known, **adjoint.context, ADJOINT: slope / adjoint.scale}
    found = torch.func.grad(simulate_first)(parameters, images, context)
    for name in names:
        expected = observation.gradients[name]
        assert (found[name] - expected).norm() <= 1e-3 * expected.norm() + 1e-8, name
    # And the whole loss is the client's own, so that the adjoint above was the client's.
    given = simulation.view.fed(ModelInput(images), simulation.view.known)
    assert torch.isfinite(client_loss(simulation.model, given, update.secret.labels))


def test_the_adjoint_starts_at_the_position_gradient() -> None:
    observation = client_update().observation
    adjoint = free_adjoint(simulate(observation), observation.gradients)
    assert torch.allclose((adjoint.start * adjoint.scale)[0], observation.gradients["network.pos_embed"][0], atol=1e-7)
    assert torch.allclose(adjoint.start.square().mean(2), torch.ones(1, 65), atol=1e-3)


def test_hidden_patches_share_the_unknown_rows_gradient_and_move_as_the_median_token() -> None:
    update = client_update("mjp:mask_ratio=0.27", adversary="aware")
    simulation = simulate(update.observation)
    mask = simulation.view.known["mjp.mask"]
    adjoint = free_adjoint(simulation, update.observation.gradients)
    rows = (adjoint.start * adjoint.scale)[0, 1:]
    shared = update.observation.gradients["network.pos_embed"][0, -1]
    assert torch.allclose(rows[mask].sum(0), shared, atol=1e-6)
    scales = adjoint.scale[1:, 0]
    assert torch.allclose(scales[mask], scales[mask][:1].expand(int(mask.sum())))
    assert scales[~mask].min() <= scales[mask][0] <= scales[~mask].max()
    assert (patch_sizes(simulation, update.observation.gradients)[mask] == 0.5).all()


def test_it_applies_to_one_small_image_with_learned_positions() -> None:
    for defense, batch, applies in (("none", 1, True), ("none", 2, False), ("no-pe", 1, False), ("naive-shuffle", 1, True)):
        observation = client_update(defense, batch=batch).observation
        assert has_free_adjoint(simulate(observation).model, observation) == applies, (defense, batch)
        attack = AdjointMatching(steps=2)
        found = attack(observation, generator=torch.Generator().manual_seed(0), progress=Progress())
        assert ("free-adjoint-does-not-apply" in found.flags) != applies


@pytest.mark.parametrize("adversary", ["aware", "oracle"])
def test_the_linear_system_holds_at_the_clients_image_and_adjoint_masked_patches_included(adversary: str) -> None:
    update = client_update("mjp:mask_ratio=0.27", adversary=adversary, labels="known")
    observation, simulation = update.observation, simulate(update.observation)
    fed = update.secret.fed if adversary == "aware" else update.secret.images
    adjoint = free_adjoint(simulation, observation.gradients)
    weights = equation_weights(simulation.model, observation.gradients, 0.05)
    context = {**simulation.view.known, **adjoint.context, EQUATION_WEIGHTS: weights}
    parts, simulate_first = simulation.model.parts(), first_block_simulator(simulation)
    names = [parts.patch_weight, str(parts.position)]
    parameters = {name: value for name, value in simulation.model.named_parameters() if name in names}
    slope = _adjoint(observation, fed, update.secret.labels) / adjoint.scale
    system = patch_equations(simulation)

    def residual(images: Tensor) -> float:
        found = torch.func.grad(simulate_first)(parameters, images, {**context, ADJOINT: slope})
        observed = {name: observation.gradients[name] for name in names}
        return float(system({name: value[None] for name, value in found.items()}, observed, images[None], context))

    assert residual(fed) < 1e-6
    place = int(simulation.view.known["mjp.mask"].nonzero()[0])
    row, column = divmod(place, 8)
    other = fed.clone()
    other[..., 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 0.5
    assert residual(other) > 1e-4


def _photo() -> tuple[Observation, Tensor]:
    none = build_defense(())
    spec = resolve_victim("vit_mini_patch4_32", "embedded", none)
    victim = load_victim(spec, none, generator=torch.Generator().manual_seed(0))
    images, labels = open_images("photos").load([3], 32)
    threat = ThreatModel(labels="known")
    random = torch.Generator().manual_seed(0)
    observation, _ = observe(victim, spec.model, none, images, labels, declared=(), threat_model=threat, generator=random)
    return observation, images


def test_the_gradient_brings_a_photo_back_and_the_priors_alone_do_not() -> None:
    observation, images = _photo()
    errors = {}
    for preset, steps in (("quick", 130), ("priors-only", 40)):  # the priors alone are at their end by then
        attack = AdjointMatching.from_preset(preset, {"steps": steps})
        found = attack(observation, generator=torch.Generator().manual_seed(0))
        errors[preset] = float((found.images - images).square().mean())
    assert errors["quick"] < 0.5 * errors["priors-only"]


@pytest.mark.nightly
def test_a_photo_comes_back_recognisably_with_the_default_settings() -> None:
    observation, images = _photo()
    found = AdjointMatching.from_preset(None, {})(observation, generator=torch.Generator().manual_seed(0))
    assert float((found.images - images).square().mean()) < 0.01


def test_each_image_of_a_batch_starts_with_an_equal_share_of_the_adjoint() -> None:
    observation = client_update(batch=2).observation
    adjoint = free_adjoint(simulate(observation), observation.gradients, 2)
    table = observation.gradients["network.pos_embed"].flatten(0, -2)
    assert adjoint.start.shape == (2, *table.shape)
    assert torch.equal(adjoint.start[0], adjoint.start[1])
    assert torch.allclose((adjoint.start * adjoint.scale).sum(dim=0), table, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(
    ("defense", "adversary", "exchanges"),
    [("none", "unaware", 1), ("naive-shuffle", "unaware", 1), ("naive-shuffle", "oracle", 0)],
)
def test_photos_of_a_batch_have_adjoints_of_their_own_and_exchange_patches_where_these_stand_still(
    defense: str, adversary: str, exchanges: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sorted_images = []

    def counted(images: Tensor, patch_size: int) -> Tensor:
        sorted_images.append(images)
        return image_of_each_place(images, patch_size)

    monkeypatch.setattr("privbench.inversion.loop.image_of_each_place", counted)
    options = {"model": "vit_tiny_patch16_224", "image_size": 96, "weights": "random", "batch_size": 2, "indices": "0,1"}
    case = resolve_cases(cast(RunOptions, {"defense": defense, "adversary": adversary, **options}))[0]
    observation, _ = load_case(case, torch.device("cpu")).observe(0)
    found = AdjointMatching(steps=75)(observation, generator=torch.Generator().manual_seed(0))
    assert len(sorted_images) == exchanges  # before step 50
    assert "free-adjoint-does-not-apply" not in found.flags
    assert found.images.shape == (2, 3, 96, 96)
    assert torch.isfinite(found.images).all()
    assert not torch.equal(found.images[0], found.images[1])
    assert "features" not in found.losses
