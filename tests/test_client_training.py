"""Clients that train: the delta is that of torch's own loop, and closed forms find the image in it."""

from copy import deepcopy

import pytest
import torch

from privbench.client import observe
from privbench.core import (
    ATTACKS,
    LocalTraining,
    ModelInput,
    Observation,
    Secret,
    ThreatModel,
    UserError,
    build_defense,
    resolve_defense,
)
from privbench.models import Victim, client_loss, load_victim, resolve_victim
from tests.conformance import some_images

NONE = resolve_defense("none")


def client_that_trains(
    local: LocalTraining, images: torch.Tensor, defense: str = "none", **threat: str
) -> tuple[Victim, Observation, Secret]:
    built = build_defense(resolve_defense(defense))
    spec = resolve_victim("vit_mini_patch4_32", "embedded", built)
    victim = load_victim(spec, built, generator=torch.Generator().manual_seed(0))
    observation, secret = observe(
        victim,
        spec.model,
        built,
        images,
        torch.arange(len(images)),
        declared=resolve_defense(defense),
        threat_model=ThreatModel.model_validate(threat),
        generator=torch.Generator().manual_seed(1),
        training=local,
    )
    return victim, observation, secret


@pytest.mark.parametrize("optimiser", ["sgd", "momentum", "adamw"])
def test_the_delta_is_that_of_a_training_loop_and_the_victim_is_left_as_found(optimiser: str) -> None:
    images = some_images(2)
    training = LocalTraining.model_validate({"optimiser": optimiser, "steps": 3, "lr": 1e-3, "weight_decay": 0.01})
    victim, observation, _ = client_that_trains(training, images)
    trained = deepcopy(victim)
    parameters = list(trained.parameters())
    built: torch.optim.Optimizer = {
        "sgd": torch.optim.SGD(parameters, 1e-3, weight_decay=0.01),
        "momentum": torch.optim.SGD(parameters, 1e-3, momentum=0.9, weight_decay=0.01),
        "adamw": torch.optim.AdamW(parameters, 1e-3, weight_decay=0.01),
    }[optimiser]
    for _ in range(3):
        built.zero_grad()
        torch.autograd.backward(client_loss(trained, ModelInput(images), torch.arange(2)))
        built.step()
    for (name, before), after in zip(victim.named_parameters(), trained.parameters(), strict=True):
        assert torch.equal(before, observation.model_state[name])
        assert torch.allclose(observation.update[name], (after - before).detach(), atol=1e-7)
    assert observation.kind == "delta"


@pytest.mark.parametrize("text", ["sgd", "momentum"])
def test_the_closed_form_is_exact_on_a_delta_of_one_image(text: str) -> None:
    _, observation, secret = client_that_trains(LocalTraining.model_validate({"optimiser": text, "steps": 5}), some_images(1))
    found = ATTACKS.get("closed-form")()(observation, generator=torch.Generator().manual_seed(0))
    assert (found.images - secret.images).square().mean() < 1e-6


def test_how_a_client_trained_stays_hidden_where_the_threat_model_says_so() -> None:
    training = LocalTraining(steps=2)
    assert client_that_trains(training, some_images(1))[1].training == training
    assert client_that_trains(training, some_images(1), training="hidden")[1].training is None


def test_mini_batches_are_drawn_anew_in_every_epoch_and_cover_the_images() -> None:
    training = LocalTraining.model_validate({"epochs": 2, "batches": 4, "lr": 1e-3})
    _, whole, _ = client_that_trains(LocalTraining(steps=2, learning_rate=4e-3), some_images(4))
    _, parts, _ = client_that_trains(training, some_images(4))
    name = "network.head.bias"
    # Eight small steps of one image each come near two of all four at four times the rate.
    assert torch.nn.functional.cosine_similarity(whole.update[name], parts.update[name], dim=0) > 0.98
    with pytest.raises(UserError, match="1 image in 4 mini-batches"):
        client_that_trains(training, some_images(1))


def test_a_defense_on_gradients_acts_in_the_units_of_a_gradient() -> None:
    training = LocalTraining(steps=2)
    _, plain, _ = client_that_trains(training, some_images(1))
    _, clipped, _ = client_that_trains(training, some_images(1), "clipping:max_norm=0.001")
    norm = torch.stack([value.square().sum() for value in clipped.gradients.values()]).sum().sqrt()
    assert norm == pytest.approx(0.001, rel=1e-3)
    assert torch.stack([value.square().sum() for value in plain.gradients.values()]).sum().sqrt() > 0.01


def test_half_precision_is_that_of_theclient_that_trains() -> None:
    _, observation, _ = client_that_trains(LocalTraining(steps=1, dtype="bfloat16"), some_images(1))
    assert observation.dtype == "bfloat16"
    assert next(iter(observation.gradients.values())).dtype == torch.float32
