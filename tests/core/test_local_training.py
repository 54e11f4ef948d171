"""Local training: what a delta says of the gradients behind it, by torch's own optimisers."""

import pytest
import torch

from privbench.client import local_optimiser
from privbench.core import LocalTraining, gradient_of_delta
from privbench.core.weight_delta import dtype_of


def _delta(training: LocalTraining, gradients: list[torch.Tensor], start: torch.Tensor) -> torch.Tensor:
    parameter = torch.nn.Parameter(start.clone())
    optimiser = local_optimiser(training, [parameter])
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimiser.step()
    return parameter.detach() - start


@pytest.mark.parametrize("optimiser", ["sgd", "momentum"])
@pytest.mark.parametrize("steps", [1, 4])
def test_a_delta_of_equal_gradients_gives_that_gradient_back(optimiser: str, steps: int, generator: torch.Generator) -> None:
    training = LocalTraining.model_validate({"optimiser": optimiser, "steps": steps, "lr": 0.05})
    gradient, start = (torch.randn(6, 5, generator=generator).double() for _ in range(2))
    found = gradient_of_delta({"w": _delta(training, [gradient] * steps, start)}, {"w": start}, training)["w"]
    assert torch.allclose(found, gradient)


def test_the_mean_over_steps_is_weighted_by_momentum(generator: torch.Generator) -> None:
    training = LocalTraining(optimiser="momentum", steps=2, momentum=0.5, learning_rate=0.1)
    first, second, start = (torch.randn(4, generator=generator).double() for _ in range(3))
    found = gradient_of_delta({"w": _delta(training, [first, second], start)}, {"w": start}, training)["w"]
    assert torch.allclose(found, (1.5 * first + second) / 2.5)


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_weight_decay_of_one_step_is_taken_off(optimiser: str, generator: torch.Generator) -> None:
    training = LocalTraining.model_validate({"optimiser": optimiser, "weight_decay": 0.1, "lr": 1e-3})
    gradient, start = 1e-6 * torch.randn(50, generator=generator).double(), torch.randn(50, generator=generator).double()
    found = gradient_of_delta({"w": _delta(training, [gradient], start)}, {"w": start}, training)["w"]
    # AdamW's step is formed in torch with an epsilon that this size of gradient shows.
    assert torch.allclose(found, gradient, rtol=1e-2, atol=1e-4 if optimiser == "sgd" else 1e-9)


def test_the_first_adamw_step_gives_small_gradients_back_and_of_large_ones_the_sign(generator: torch.Generator) -> None:
    training = LocalTraining(optimiser="adamw", learning_rate=1e-3)
    size = torch.logspace(-9, -1, 9)
    gradient = size * torch.where(torch.rand(9, generator=generator) < 0.5, -1.0, 1.0)
    start = 0.05 * torch.ones(9)
    found = gradient_of_delta({"w": _delta(training, [gradient], start)}, {"w": start}, training)["w"]
    assert torch.equal(found.sign(), gradient.sign())
    assert torch.allclose(found[:5], gradient[:5], rtol=0.05)
    # What the rounding of weights hides is a lower bound, never a zero or an infinity.
    assert (found[7:].abs() < gradient[7:].abs()).all()
    assert (found[7:].abs() > 1e-5).all()


def test_without_knowledge_a_gradient_is_minus_the_delta() -> None:
    assert gradient_of_delta({"w": torch.tensor([1.0, -2.0])}, {}, None)["w"].tolist() == [-1.0, 2.0]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_the_precision_of_an_update_shows_in_its_entries(dtype: str, generator: torch.Generator) -> None:
    sent = torch.randn(100, generator=generator).to(getattr(torch, dtype))
    assert dtype_of({"w": sent.float()}) == dtype


def test_epochs_and_steps() -> None:
    training = LocalTraining.model_validate({"epochs": 3, "batches": 4, "lr": 0.1})
    assert (training.steps, training.epochs, training.learning_rate) == (12, 3, 0.1)
    with pytest.raises(ValueError, match="give one"):
        LocalTraining.model_validate({"epochs": 3, "steps": 4})
