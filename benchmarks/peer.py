"""Runs `breaching` (Geiping et al., on PyPI) on a privbench victim, by its public interface alone.

What it computes, in our terms, with its preset `invertinggradients`:

- matching (`CosineSimilarity`): one cosine distance over the concatenation of all parameters' gradients, not per layer;
- variation (`TotalVariation`, both exponents 1): the absolute differences to the pixel below and to the pixel at the right,
  zero outside the image, summed and divided by `batch * 3 * height * width`; it adds the constant `2e-8`, which has no
  gradient. `privbench.inversion.TotalVariation` has no border terms and divides by the number of pairs, so it is not the same
  function; `benchmarks.baseline.total_variation` is;
- loss: whatever it is handed, here the mean cross-entropy with known labels;
- step: `torch.optim.Adam` with its defaults, then `boxed` clips to the range of an image. The victim normalises by itself, so
  the metadata say mean 0 and standard deviation 1, and the box is [0, 1].

Three settings differ from the preset: the learning rate is constant (`step_size_decay`), so that the number of steps does not
change the first of them; the gradient's sign is taken only where asked (`signed`); and the start is given (what `init` makes
is thrown away). It returns the iterate that follows the smallest objective, which is the last one while the objective falls.
"""

import contextlib
import importlib
import io
import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.baseline import PeerRun, in_order, second_order_copy
from benchmarks.timing import clock
from privbench.core import Observation, UserError
from privbench.models import Victim

__all__ = ["PeerResult", "april_block", "attack_with_breaching", "run_breaching"]


def run_breaching(
    model: nn.Module,
    gradients: Mapping[str, Tensor],
    labels: Tensor,
    start: Tensor,
    *,
    steps: int,
    learning_rate: float,
    variation: float,
    signed: bool = False,
) -> PeerRun:
    """Inverts a gradient with `breaching`.

    The clock is read in the loss function, which is ours: `breaching` calls it once per step and once more when it scores the
    result. From the first call to that last one lie exactly `steps` steps (the forward pass of the score stands in for that of
    the first step), and neither the construction of models and optimiser nor the backward pass of the score. One run
    gives this, where the difference of two runs of different length would double the noise. On a GPU the two readings wait for
    the device; in between nothing is added.

    Args:
        model: Images in [0, 1] to logits; left as found.
        gradients: Observed gradient by parameter name, one for each parameter of the model.
        labels: `[batch]` int64.
        start: `[batch, 3, height, width]` in [0, 1].
        steps: Number of steps.
        learning_rate: Adam's.
        variation: Weight of the total variation.
        signed: Whether Adam gets the sign of the image gradient in its place.

    Returns:
        Its images, the time of its steps and its objective before each.

    Raises:
        UserError: `breaching` is not installed, the gradients are not those of the model's parameters, or `breaching` gave up
            because its objective was not finite.
    """
    attacked = second_order_copy(model)
    readings: list[float] = []
    calls = 0

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        nonlocal calls
        value = nn.functional.cross_entropy(logits, targets)
        if calls in (0, steps):
            readings.append(clock(start.device))
        calls += 1
        return value

    with _quiet():
        breaching = _breaching()
        settings = _settings(breaching, steps=steps, learning_rate=learning_rate, variation=variation, signed=signed)
        setup = {"device": start.device, "dtype": start.dtype}
        attacker = breaching.attacks.prepare_attack(attacked, loss, settings, setup)
        reconstructed, statistics = attacker.reconstruct(
            [_payload(attacked, start.shape[1:])], [_shared(attacked, gradients, labels, len(labels))], {}, initial_data=start
        )
    values = statistics["Trial_0_Val"]
    if len(values) < steps:
        raise UserError(f"breaching gave up after {len(values)} of {steps} steps, not finite; choose a smaller learning rate")
    begun, ended = readings
    return PeerRun(reconstructed["data"].detach(), ended - begun, steps, torch.tensor(values))


@dataclass(frozen=True)
class PeerResult:
    """What an attack of `breaching` returned.

    Attributes:
        images: `[batch, 3, height, width]`, clipped to [0, 1].
        evaluations: How often it computed the client's loss, and with it a gradient.
        gave_up: Its score was not finite, so that it returned the mean image in place of a candidate.
    """

    images: Tensor
    evaluations: int
    gave_up: bool


def attack_with_breaching(
    config: str,
    victim: Victim,
    observation: Observation,
    *,
    overrides: Sequence[str] = (),
    start: Tensor | None = None,
    seed: int = 0,
) -> PeerResult:
    """Runs an attack of `breaching` as its users do: its own configuration, the network over normalised pixels.

    A weight delta of plain SGD whose steps are known goes to its simulation of local steps (its `fedavg` user).

    Args:
        config: Name of its attack configuration.
        victim: The client's model; left as found.
        observation: The client's update; unknown labels are left to `breaching`.
        overrides: Changes to the configuration, in its own syntax.
        start: `[batch, 3, height, width]` in [0, 1] to start from; None for its own start.
        seed: Of its random draws.

    Raises:
        UserError: `breaching` is not installed, or the update is not that of the victim.
    """
    container = second_order_copy(_Container(victim.network))
    local = _local_steps(observation)
    sent = observation.gradients if local is None else observation.update
    gradients = {name.replace("network.", "model.", 1): value for name, value in sent.items()}
    mean, std = victim.mean, victim.std
    evaluations = 0

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        nonlocal evaluations
        evaluations += 1
        return nn.functional.cross_entropy(logits, targets)

    arguments = {} if start is None else {"initial_data": (start - mean) / std}
    with _quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        breaching = _breaching()
        settings = breaching.get_attack_config(config, overrides=list(overrides))
        setup = {"device": mean.device, "dtype": mean.dtype}
        attacker = breaching.attacks.prepare_attack(container, loss, settings, setup)
        constants = mean.flatten().tolist(), std.flatten().tolist()
        payload = _payload(container, observation.image_shape, *constants, observation.model.num_classes)
        shared = _shared(container, gradients, observation.labels, observation.batch_size, local)
        found, statistics = attacker.reconstruct([payload], [shared], {}, **arguments)
    images = (found["data"].detach() * std + mean).clamp(0, 1)
    return PeerResult(images, evaluations, not math.isfinite(statistics.get("opt_value", 0.0)))


def april_block() -> Any:
    """The block that `breaching` gives models for APRIL: attention without LayerNorm and residual, made of a block of timm.

    Raises:
        UserError: `breaching` is not installed.
    """
    with _quiet():
        _breaching()
        return importlib.import_module("breaching.cases.models.model_preparation").ModifiedBlock


class _Container(nn.Module):
    """The network under the name `model`, where the attacks of `breaching` look for it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)
        return logits


def _breaching() -> ModuleType:
    try:
        return importlib.import_module("breaching")
    except ModuleNotFoundError as error:
        raise UserError(f"this comparison needs breaching ({error}); install privbench[bench]") from None


def _settings(breaching: ModuleType, *, steps: int, learning_rate: float, variation: float, signed: bool) -> Any:
    return breaching.get_attack_config(
        "invertinggradients",
        overrides=[
            f"optim.max_iterations={steps}",
            f"optim.callback={steps}",
            f"optim.step_size={learning_rate}",
            "optim.step_size_decay=null",
            f"optim.signed={'hard' if signed else 'null'}",
            "optim.boxed=true",
            f"regularization.total_variation.scale={variation}",
            "init=zeros",
        ],
    )


def _payload(
    model: nn.Module,
    shape: Sequence[int],
    mean: Sequence[float] = (0.0,) * 3,
    std: Sequence[float] = (1.0,) * 3,
    classes: int = 0,
) -> dict[str, Any]:
    """What the server sent; with buffers given, `breaching` leaves the model in evaluation mode."""
    described = SimpleNamespace(
        shape=tuple(shape), mean=tuple(mean), std=tuple(std), modality="vision", task="classification", classes=classes
    )
    return {"parameters": list(model.parameters()), "buffers": list(model.buffers()), "metadata": described}


def _local_steps(observation: Observation) -> dict[str, Any] | None:
    """What its `fedavg` user shares of its training; None for a gradient.

    Raises:
        UserError: The training is not one that `breaching` simulates.
    """
    training, labels = observation.training, observation.labels
    if observation.kind == "gradient":
        return None
    if training is None or labels is None or training.optimiser != "sgd" or training.batches > 1 or training.weight_decay:
        raise UserError("breaching simulates plain SGD on whole batches whose labels are known; given another delta")
    return {
        "lr": training.learning_rate,
        "steps": training.steps,
        "data_per_step": observation.batch_size,
        "labels": [labels] * training.steps,
    }


def _shared(
    model: nn.Module,
    gradients: Mapping[str, Tensor],
    labels: Tensor | None,
    batch: int,
    local: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What the user sent, in the order of the model's parameters."""
    return {
        "gradients": in_order(model, gradients),
        "buffers": None,
        "metadata": {"num_data_points": batch, "labels": labels, "local_hyperparams": local},
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No prints, no log lines and no warnings of old interfaces, and the settings for them as found afterwards."""
    log = logging.getLogger("breaching")
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
