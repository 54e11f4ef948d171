"""Federated averaging: a round is the mean of what the clients trained by themselves."""

import copy

import torch
from torch import Tensor

from benchmarks.federated import Federation, deployed_accuracy, federate
from privbench.core import LocalTraining
from tests.conformance import some_images


def _client(start: int) -> tuple[Tensor, Tensor]:
    images = (255 * some_images(8)[start : start + 4]).to(torch.uint8)
    return images, torch.tensor([0, 1, 2, 3])


def test_a_round_moves_the_server_by_the_mean_of_what_its_clients_train_alone() -> None:
    server = Federation.fresh("none", 4, seed=1)
    training = LocalTraining(optimiser="sgd", learning_rate=0.1, steps=3)
    before = copy.deepcopy(server.victim.state_dict())
    alone = []
    for start in (0, 4):
        images, labels = _client(start)
        victim = copy.deepcopy(server.victim)
        optimiser = torch.optim.SGD(victim.parameters(), 0.1)
        for _ in range(3):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(victim(images.float() / 255), labels).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        alone.append(victim.state_dict())
    clients = [_client(0), _client(4)]
    assert list(federate(server, clients, training, 1, torch.Generator().manual_seed(0))) == [1]
    for name, value in server.victim.state_dict().items():
        expected = (alone[0][name] + alone[1][name]) / 2
        assert torch.allclose(value, expected, atol=1e-5), name
    assert not torch.equal(server.victim.state_dict()["network.head.weight"], before["network.head.weight"])


def test_both_defenses_start_from_the_same_weights_and_layers_stay_on_when_measured() -> None:
    plain, random = (Federation.fresh(text, 4, seed=2) for text in ("none", "stochastic-layers:spread=3"))
    states = [one.victim.state_dict() for one in (plain, random)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    test = _client(0)[0].repeat(10, 1, 1, 1), torch.arange(4).repeat(10)
    assert deployed_accuracy(plain, test, 2, 0) in {0.0, 0.25, 0.5, 0.75, 1.0}  # equal images, equal answers
    assert deployed_accuracy(random, test, 2, 0) not in {0.0, 0.25, 0.5, 0.75, 1.0}
