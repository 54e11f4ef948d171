"""Without position embedding the patches come back all the same, each as often as it occurs, in an order of their borders."""

import pytest
import torch

from privbench.adversary import simulate
from privbench.attacks.subspace import Subspace
from privbench.client import observe
from privbench.closed_form.activations import Activations
from privbench.closed_form.moments import later_moments
from privbench.closed_form.without_positions import distinct, tokens_of_moments, whole_numbers, without_positions
from privbench.core import Observation, Secret, ThreatModel, UserError, build_defense, resolve_defense
from privbench.core.patches import from_patches, to_patches
from privbench.models import load_victim, resolve_victim
from privbench.scoring.patches import best_placement
from tests.attacks.closed_forms import attacked, psnr, update


def client_of(images: torch.Tensor) -> tuple[Observation, Secret]:
    """An update of the embedded victim without positions on given images."""
    built = build_defense(resolve_defense("no-pe"))
    spec = resolve_victim("vit_mini_patch4_32", "embedded", built)
    victim = load_victim(spec, built, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(5)
    labels, known = torch.tensor([3]), ThreatModel()
    declared = resolve_defense("no-pe")
    return observe(victim, spec.model, built, images, labels, declared=declared, threat_model=known, generator=generator)


def test_every_patch_comes_back_and_borders_are_all_that_orders_them() -> None:
    observation, secret = update("no-pe", photo=0)
    result = attacked(Subspace(), observation)
    assert result.flags == ("order-inferred",)
    assert (result.losses["found"], result.losses["missing"]) == (64, 0)
    assert psnr(best_placement(result.images, secret.images, 4), secret.images) > 70
    assert result.inferred.roles == frozenset()


def test_a_patch_that_occurs_often_is_found_once_and_counted_by_the_attention() -> None:
    _, secret = update("no-pe", photo=1)
    patches = to_patches(secret.images, 4).clone()
    repeated = {3: 5, 40: 9}
    patches[:, 10:14] = patches[:, 3:4]
    patches[:, 50:58] = patches[:, 40:41]
    observation, truth = client_of(from_patches(patches, 32, 32))
    found = without_positions(simulate(observation).model, observation, 1, torch.Generator().manual_seed(0))
    assert (found.found, found.missing, found.settled) == (64 - sum(count - 1 for count in repeated.values()), 0, True)
    model = simulate(observation).model
    wanted = to_patches((truth.images.double() - model.mean) / model.std, 4)[0].flatten(1)
    alike = (torch.cdist(wanted, found.patches) < 0.05).sum(dim=1)
    assert {place: int(alike[place]) for place in repeated} == repeated


def test_exact_moments_are_all_it_takes() -> None:
    """In float64 the tokens are the common eigenvectors: the first pair of moments gives them all, without another start."""
    specs = resolve_defense("no-pe")
    built = build_defense(specs)
    spec = resolve_victim("vit_mini_patch4_32", "embedded", built)
    victim = load_victim(spec, built, generator=torch.Generator().manual_seed(0)).double()
    _, secret = update("no-pe", photo=1)
    generator = torch.Generator().manual_seed(5)
    observation, _ = observe(
        victim,
        spec.model,
        built,
        secret.images.double(),
        secret.labels,
        declared=resolve_defense("no-pe"),
        threat_model=ThreatModel(),
        generator=generator,
    )
    model = simulate(observation).model.double()
    activations = Activations.of(model, observation, 65)
    assert activations is not None
    moments = later_moments(model, observation, activations.basis, 50)
    assert len(moments) == 3
    truth = activations.directions(model, secret.images.double(), torch.zeros(64, dtype=torch.bool))
    values, vectors = torch.linalg.eig(torch.linalg.solve(moments[1], moments[0]))
    reached = torch.nn.functional.normalize((moments[0] @ vectors.real).T, dim=1)
    assert torch.cdist(truth, torch.cat([reached, -reached])).min(dim=1).values.max() < 1e-3
    assert values.imag.abs().max() < 1e-6 * values.real.abs().max()
    # One moment alone has no eigenvectors that mean anything.
    assert len(tokens_of_moments(activations, moments[:1])) == 0


def test_noise_that_hides_the_tokens_is_flagged() -> None:
    observation, secret = update("no-pe", photo=1)
    noise = torch.Generator().manual_seed(1)
    spoiled = {name: value + 1e-2 * torch.randn(value.shape, generator=noise) for name, value in observation.gradients.items()}
    result = attacked(Subspace(), observation.with_gradients(spoiled))
    assert "row-space-does-not-fit" in result.flags
    assert psnr(result.images, secret.images) < 20


def test_repeats_are_dropped_and_amounts_become_whole() -> None:
    directions = torch.eye(3, dtype=torch.float64)[[0, 1, 0, 2, 1]]
    assert torch.equal(distinct(directions), torch.eye(3, dtype=torch.float64))
    amounts = torch.tensor([0.2, 1.1, 2.6, 3.9], dtype=torch.float64)
    assert whole_numbers(amounts, 9).tolist() == [1, 1, 3, 4]
    assert whole_numbers(amounts, 8).tolist() == [1, 1, 2, 4]


@pytest.mark.parametrize(
    ("attack", "batch", "model", "words"),
    [
        (Subspace(), 2, "vit_mini_patch4_32", "one image"),
        (Subspace(search=0), 1, "vit_mini_patch4_32", "by its search"),
        (Subspace(), 1, "vit_tiny_patch16_224", "more equations"),
    ],
)
def test_what_it_does_not_apply_to_is_refused_in_a_line(attack: Subspace, batch: int, model: str, words: str) -> None:
    weights = "embedded" if model == "vit_mini_patch4_32" else "random"
    observation, _ = update("no-pe", batch=batch, model=model, weights=weights)
    with pytest.raises(UserError, match=words) as caught:
        attacked(attack, observation)
    assert "\n" not in str(caught.value)
