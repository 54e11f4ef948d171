"""Stochastic layers: the distribution, token consistency, what each adversary simulates, and that weights fit as they are."""

import math
from statistics import fmean
from typing import cast

import pytest
import torch
from torch import nn

from privbench.adversary import simulate
from privbench.core import ModelInput, UserError, build_defense, resolve_defense
from privbench.defenses.stochastic_layers import StochasticLayers, TokenConsistentLinear
from privbench.models import Victim, build_model, default_spec, load_victim, resolve_victim
from tests.conformance import client_update, some_images

CHOICE = "stochastic-layers.transforms"


def _victim(defense: StochasticLayers) -> Victim:
    victim = build_model(default_spec("vit_mini_patch4_32")).eval()
    defense.prepare_model(victim)
    return victim


@pytest.mark.parametrize("mean", ["identity", "zero"])
@pytest.mark.parametrize("form", ["diagonal", "full"])
def test_entries_are_uniform_around_the_mean(form: str, mean: str, generator: torch.Generator) -> None:
    defense = StochasticLayers.configured({"form": form, "mean": mean, "spread": 0.5})
    drawn = defense.prepare_batch(_victim(defense), ModelInput(some_images(2)), generator).choices[CHOICE]
    assert drawn.shape == ((3, 2, 768, 768) if form == "full" else (3, 2, 768))
    centre = torch.eye(768) if form == "full" else torch.ones(768)
    noise = (drawn - centre if mean == "identity" else drawn).flatten()
    half_width = 0.5 / math.sqrt(768) if form == "full" else 0.5
    assert float(noise.abs().max()) <= half_width * (1 + 1e-4)
    # A uniform distribution has mean 0, standard deviation a / sqrt(3) and fourth moment a^4 / 5.
    error = 6 / math.sqrt(noise.numel())
    assert float(noise.mean()) == pytest.approx(0, abs=error * half_width)
    assert float(noise.std()) == pytest.approx(half_width / math.sqrt(3), rel=error)
    assert float((noise / half_width).pow(4).mean()) == pytest.approx(0.2, rel=3 * error)
    flat = drawn.reshape(6, -1)
    assert len(torch.unique(flat[:, :5], dim=0)) == 6  # every layer and image draws for itself


@pytest.mark.parametrize("shape", [(2, 5), (2, 5, 5)])
def test_all_tokens_of_an_image_meet_the_same_map(shape: tuple[int, ...], generator: torch.Generator) -> None:
    layer, transform = TokenConsistentLinear(5), torch.rand(shape, generator=generator)
    features = torch.rand(2, 7, 5, generator=generator)
    assert torch.equal(layer(features), features)
    mapped = torch.func.functional_call(layer, {"transform": transform}, (features,))
    for image in range(2):
        matrix = transform[image] if len(shape) == 3 else torch.diag(transform[image])
        for token in range(7):
            assert torch.allclose(mapped[image, token], features[image, token] @ matrix)


def test_an_image_is_classified_alike_in_any_company(generator: torch.Generator) -> None:
    defense = StochasticLayers()
    victim = _victim(defense)
    fed = defense.prepare_batch(victim, ModelInput(some_images(3)), generator).model_input
    alone = [
        victim(fed.images[i : i + 1], None, {name: noise[:, i : i + 1] for name, noise in fed.layer_noise.items()})
        for i in range(3)
    ]
    assert torch.allclose(victim(*fed.arguments), torch.cat(alone), atol=1e-5)
    assert not torch.allclose(victim(*fed.arguments), victim(fed.images), atol=1e-3)


def test_several_draws_give_the_mean_of_the_logits(generator: torch.Generator) -> None:
    defense = StochasticLayers()
    victim = _victim(defense)
    draws = [defense.prepare_batch(victim, ModelInput(some_images(2)), generator).model_input for _ in range(3)]
    together = {name: torch.cat([draw.layer_noise[name] for draw in draws]) for name in draws[0].layer_noise}
    mean = torch.stack([victim(*draw.arguments) for draw in draws]).mean(0)
    assert torch.allclose(victim(draws[0].images, None, together), mean, atol=1e-5)


def test_weights_of_the_undefended_victim_fit_and_the_layers_are_idle_without_a_draw() -> None:
    defense, none = build_defense(resolve_defense("stochastic-layers")), build_defense(resolve_defense("none"))
    spec = resolve_victim("vit_mini_patch4_32", "embedded", defense)
    assert spec == resolve_victim("vit_mini_patch4_32", "embedded", none)
    ours = load_victim(spec, defense, generator=torch.Generator())
    theirs = load_victim(spec, none, generator=torch.Generator())
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert torch.equal(ours(some_images()), theirs(some_images()))


@pytest.mark.parametrize("form", ["diagonal", "full"])
def test_each_adversary_simulates_what_it_knows(form: str) -> None:
    text = f"stochastic-layers:form={form},simulated_draws=16"
    images = some_images(1)

    def logits(adversary: str) -> torch.Tensor:
        return simulate(client_update(text, adversary=adversary).observation).logits(images)

    update = client_update(text, adversary="oracle")
    layers = [name for name, module in update.victim.network.named_modules() if isinstance(module, TokenConsistentLinear)]
    drawn = {f"{name}.transform": update.secret.choices[CHOICE][i][None] for i, name in enumerate(layers)}
    # One draw of its own: neither the client's, nor none.
    assert not torch.allclose(logits("unaware"), update.victim(images), atol=1e-2)
    assert not torch.allclose(logits("unaware"), logits("oracle"), atol=1e-2)
    assert torch.equal(logits("unaware"), logits("unaware"))
    assert torch.allclose(logits("oracle"), update.victim(images, None, drawn), atol=1e-6)
    aware = client_update(text, adversary="aware").observation
    assert not aware.disclosed
    assert "draw-not-inferred" in simulate(aware).view.remarks
    assert torch.equal(logits("aware"), logits("aware"))

    def away(adversary: str, seed: int) -> float:
        client = client_update(text, adversary=adversary, seed=seed)
        return float((simulate(client.observation).logits(images) - update.victim(images)).detach().norm())

    # The mean over many draws is nearer to the mean network than one draw is, its own or, in the mean of four, a client's.
    told = fmean(away("oracle", seed) for seed in range(11, 15))
    assert 0 < away("aware", 11) < 0.6 * min(away("unaware", 11), told)


def test_the_draw_survives_a_defense_that_knows_nothing_of_it() -> None:
    update = client_update("stochastic-layers+naive-shuffle", adversary="oracle")
    without = client_update("naive-shuffle")
    assert {CHOICE, "naive-shuffle.order"} == set(update.secret.choices)
    name = "network.blocks.0.mlp.fc2.weight"
    assert not torch.allclose(update.observation.gradients[name], without.observation.gradients[name], rtol=0.05)
    simulation = simulate(update.observation)
    loss = nn.functional.cross_entropy
    weights = dict(simulation.model.named_parameters())
    ours = torch.func.grad(lambda p: loss(simulation.logits(update.secret.images, parameters=p), torch.tensor([3])))(weights)
    observed = update.observation.gradients[name]
    assert (ours[name] - observed).norm() < 1e-5 * observed.norm()


def test_what_does_not_fit_is_one_line() -> None:
    defense = cast(StochasticLayers, build_defense(resolve_defense("stochastic-layers")))
    with pytest.raises(UserError, match="needs a vision transformer whose blocks hold a two-layer MLP, given PriorCnn"):
        defense.prepare_model(build_model(default_spec("cnn_mini_32")))
    for wrong in ("spread=0", "spread=11", "simulated_draws=0", "form=sparse"):
        with pytest.raises(UserError, match=f"defense stochastic-layers: {wrong.partition('=')[0]}"):
            resolve_defense(f"stochastic-layers:{wrong}")
    plain = build_model(default_spec("vit_mini_patch4_32"))
    with pytest.raises(UserError, match="this model has no random layer blocks"):
        plain(some_images(), None, {"blocks.0.mlp.act.1.transform": torch.ones(1, 1, 768)})
