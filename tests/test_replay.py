"""The client played again: the true images explain the update entirely, others do not; and the unrolled way is torch's own."""

import pytest
import torch

from privbench.adversary import simulate
from privbench.attacks.local_steps import SameInEveryEpoch, _one_of_epochs
from privbench.core import LocalTraining
from privbench.replay import explained_alone, explained_share, mean_gradient, unrolled
from tests.conformance import some_images
from tests.test_client_training import client_that_trains


@pytest.mark.parametrize(
    "local",
    [
        {"steps": 3, "lr": 0.01},
        {"optimiser": "momentum", "steps": 3, "lr": 0.01},
        {"optimiser": "sgd", "steps": 2, "lr": 0.01, "weight_decay": 0.01},
        {"optimiser": "adamw", "steps": 1, "lr": 1e-3},
        {"optimiser": "adamw", "steps": 2, "lr": 1e-3, "weight_decay": 0.01},
        {"steps": 1, "lr": 0.01, "dtype": "float16"},
    ],
)
def test_the_private_images_explain_the_update_and_others_do_not(local: dict[str, object]) -> None:
    _, observation, secret = client_that_trains(LocalTraining.model_validate(local), some_images(1))
    simulation = simulate(observation)
    assert explained_share(observation, simulation, secret.images, secret.labels) > 0.999
    assert explained_share(observation, simulation, secret.images.flip(-1), secret.labels) < 0.9


def test_of_a_batch_each_image_is_found_or_not_by_its_own_gradient() -> None:
    images = some_images(2)
    _, observation, secret = client_that_trains(LocalTraining(steps=1, learning_rate=0.01), images)
    simulation, guesses = simulate(observation), torch.stack([images[0], 1 - images[1]])
    _, alone, single = client_that_trains(LocalTraining(steps=1, learning_rate=0.01), images[1:])
    labels = torch.cat([secret.labels[:1], single.labels])
    found, other = explained_alone(simulation, observation.update, guesses, images, labels)
    assert found == 1
    # For an image that a client sends alone it is what its update is explained by.
    share = explained_share(alone, simulate(alone), guesses[1:], single.labels)
    assert other == pytest.approx(share, abs=1e-3)
    assert share < 0.9


def test_an_unknown_learning_rate_is_fitted() -> None:
    _, observation, secret = client_that_trains(LocalTraining(steps=1, learning_rate=0.03), some_images(1), training="hidden")
    assert explained_share(observation, simulate(observation), secret.images, secret.labels) > 0.9999


def test_the_simulator_of_the_engine_has_the_gradient_of_the_whole_training(generator: torch.Generator) -> None:
    training = LocalTraining(steps=2, learning_rate=0.05)
    _, observation, secret = client_that_trains(training, some_images(1))
    simulation = simulate(observation)
    parameters = {name: value.detach() for name, value in simulation.model.named_parameters()}
    found = torch.func.grad(unrolled(simulation, training))(parameters, secret.images, {"labels": secret.labels})
    for name, value in mean_gradient(simulation, training, secret.images, secret.labels).items():
        assert torch.allclose(found[name], value)
        assert torch.allclose(found[name], observation.gradients[name], rtol=1e-2, atol=1e-4)


def test_epochs_of_the_same_images_in_another_order_cost_nothing_and_become_one(generator: torch.Generator) -> None:
    images = torch.rand(3, 3, 8, 8, generator=generator)
    epochs = torch.cat([images, images[torch.tensor([2, 0, 1])]])
    assert float(SameInEveryEpoch(2)(epochs[None])) == pytest.approx(0, abs=1e-12)
    assert float(SameInEveryEpoch(2)(torch.rand(1, 6, 3, 8, 8, generator=generator))) > 1e-4
    assert torch.allclose(_one_of_epochs(epochs, 2), images)
