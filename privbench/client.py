"""The client: private images, a model and a defense go in; what the server sees and what stays secret come out.

It sends the gradient of one step, or trains for several (`LocalTraining`) and sends the difference of the weights.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.func import grad_and_value, vmap

from privbench.core import (
    ComponentSpec,
    Defense,
    LocalTraining,
    ModelInput,
    ModelSpec,
    Normalisation,
    Observation,
    Secret,
    ThreatModel,
    UserError,
)
from privbench.models import Victim, client_loss
from privbench.models.svd_layers import DecorrelatedBatchNorm

__all__ = ["as_seen", "local_optimiser", "observe", "sample_gradients"]

_Value = TypeVar("_Value", bound=Tensor)

_CHUNK, _CHUNK_ON_GPU = 16, 256
"""Samples whose gradients are computed at a time: on a CPU more are hardly faster and take more memory."""


def observe(
    victim: Victim,
    model: ModelSpec,
    defense: Defense,
    images: Tensor,
    labels: Tensor,
    *,
    declared: Sequence[ComponentSpec],
    threat_model: ThreatModel,
    generator: torch.Generator,
    training: LocalTraining | None = None,
    server: ComponentSpec | None = None,
    trains: Collection[str] | None = None,
) -> tuple[Observation, Secret]:
    """Computes one client update: a gradient, or the weight delta of local training.

    The loss is the mean cross-entropy over the batch, and what layers add to it.
    Training losses of the defense (MJP's DAL) are not part of the update: they depend on weights and mask alone and carry
    nothing of the images. A defense that works on single samples is given the gradient of each sample's own loss.

    Args:
        victim: The client's model; its mode and gradients are left as found.
        model: The architecture as the server declared it.
        defense: Applied to batch and gradient; `prepare_model` has been applied to `victim` before.
        images: `[batch, 3, height, width]` in [0, 1].
        labels: `[batch]` int64.
        declared: The defense as the client declares it.
        threat_model: What the attacker may assume.
        generator: Source of the defense's random choices; the model's own (dropout) are seeded from it.
        training: Steps to take; None: one gradient is sent.
        server: What was done to `victim` before it was sent; the attacker did it.
        trains: Names of the parameters that are trained and sent, the others are frozen (head, adapters); None: all.

    Returns:
        The observation for the attacker and the secret for scoring.

    Raises:
        UserError: Images or labels do not fit the model, they are too few for the defense, the gradient is not finite, or a
            defense needs the gradient of each sample and the model mixes them.
    """
    expected = (3, victim.image_size, victim.image_size)
    if tuple(images.shape[1:]) != expected:
        raise UserError(f"images of shape {tuple(images.shape[1:])}; the model takes {expected}; resize them")
    if labels.min() < 0 or labels.max() >= model.num_classes:
        raise UserError(
            f"labels from {int(labels.min())} to {int(labels.max())}; the model has classes 0 to {model.num_classes - 1}; "
            "choose a data set or model that fits"
        )
    defense.require_batch(len(images))
    protected = defense.prepare_batch(victim, ModelInput(images), generator)
    was_training = victim.training
    with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []):
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        victim.train(threat_model.model_mode == "train")
        if training is None:
            gradients = _gradients(victim, defense, protected.model_input, labels, generator, trains)
            update = defense.protect_gradients(gradients, generator)
        else:
            update = _delta(victim, defense, protected.model_input, labels, training, generator, trains)
    victim.train(was_training)
    observation = Observation(
        update=update,
        model=model,
        model_state=victim.state_dict(),
        batch_size=len(images),
        threat_model=threat_model,
        defense=tuple(declared),
        labels=labels if threat_model.labels == "known" else None,
        disclosed=threat_model.disclosed(protected.choices),
        kind="gradient" if training is None else "delta",
        training=training if threat_model.training == "known" else None,
        server=server,
        normalisation=Normalisation(tuple(victim.mean.flatten().tolist()), tuple(victim.std.flatten().tolist())),
    )
    return observation, Secret(images, labels, protected.model_input.images.detach(), protected.choices)


def as_seen(observation: Observation, secret: Secret, threat_model: ThreatModel, training: LocalTraining | None) -> Observation:
    """What an attacker of another threat model sees of the same update.

    Args:
        observation: Of any threat model in which the client did the same (mode, server).
        secret: What the client kept of it.
        threat_model: Of the attacker in question.
        training: What the client did.
    """
    if observation.threat_model == threat_model:
        return observation
    return replace(
        observation,
        threat_model=threat_model,
        labels=secret.labels if threat_model.labels == "known" else None,
        disclosed=threat_model.disclosed(secret.choices),
        training=training if threat_model.training == "known" else None,
    )


def _gradients(
    victim: Victim,
    defense: Defense,
    given: ModelInput,
    labels: Tensor,
    generator: torch.Generator,
    trains: Collection[str] | None,
) -> dict[str, Tensor]:
    """Gradient of one step by the names of trained parameters, as a defense on single samples leaves it."""
    if not defense.uses_per_sample_gradients():
        return _some(_of_batch(victim, given, labels), trains)
    return defense.protect_samples(_some(sample_gradients(victim, given, labels)[0], trains), generator)


def _delta(
    victim: Victim,
    defense: Defense,
    given: ModelInput,
    labels: Tensor,
    training: LocalTraining,
    generator: torch.Generator,
    trains: Collection[str] | None,
) -> dict[str, Tensor]:
    """Weights after local training less weights before, by parameter name.

    A defense on single samples works in every step; one on gradients is applied once, to what is sent, in the units of a
    gradient, so that its strength means the same as for a client of one step.

    Raises:
        UserError: There are fewer images than mini-batches, or the defense mixes images across mini-batches.
    """
    trained = deepcopy(victim)
    moved = _some(dict(trained.named_parameters()), trains)
    before = {name: value.detach().clone() for name, value in moved.items()}
    optimiser = local_optimiser(training, list(moved.values()))
    for batch in _mini_batches(len(labels), training, generator):
        gradients = _gradients(trained, defense, _part(given, batch), labels[batch], generator, trains)
        for name, parameter in moved.items():
            parameter.grad = gradients[name].to(parameter)
        optimiser.step()
    delta = {name: value.detach() - before[name] for name, value in moved.items()}
    if type(defense).protect_gradients is not Defense.protect_gradients:
        scale = training.learning_rate * training.gradient_weight
        sent = defense.protect_gradients({name: -value / scale for name, value in delta.items()}, generator)
        delta = {name: -scale * value for name, value in sent.items()}
    return {name: value.to(training.torch_dtype) for name, value in delta.items()}


def _some(tensors: Mapping[str, _Value], names: Collection[str] | None) -> dict[str, _Value]:
    return {name: value for name, value in tensors.items() if names is None or name in names}


def local_optimiser(training: LocalTraining, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser that a client trains with."""
    if training.optimiser == "adamw":
        return torch.optim.AdamW(parameters, lr=training.learning_rate, weight_decay=training.weight_decay)
    momentum = training.momentum if training.optimiser == "momentum" else 0.0
    return torch.optim.SGD(parameters, training.learning_rate, momentum=momentum, weight_decay=training.weight_decay)


def _mini_batches(images: int, training: LocalTraining, generator: torch.Generator) -> Iterator[Tensor]:
    """Which images each step takes; a single batch is not shuffled."""
    if training.batches > images:
        raise UserError(
            f"{images} image{'s' if images > 1 else ''} in {training.batches} mini-batches; accepted: at most one mini-batch "
            "an image; raise --batch-size or lower the batches of --local"
        )
    parts: list[Tensor] = []
    for _ in range(training.steps):
        if not parts:
            order = torch.arange(images) if training.batches == 1 else torch.randperm(images, generator=generator)
            parts = list(order.tensor_split(training.batches))
        yield parts.pop(0)


def _part(given: ModelInput, batch: Tensor) -> ModelInput:
    """The model's input for some of the images."""
    if len(batch) == len(given.images):
        return given
    if given.label_mixing is not None:
        raise UserError(
            "a defense that mixes the labels of a batch does not go with several mini-batches of local training; "
            "leave out the defense, or use one mini-batch"
        )
    noise = {name: value[:, batch] for name, value in given.layer_noise.items()}
    return replace(given, images=given.images[batch], layer_noise=noise)


def _of_batch(victim: Victim, given: ModelInput, labels: Tensor) -> dict[str, Tensor]:
    """Gradient of the batch's loss by parameter name."""
    loss = client_loss(victim, given, labels)
    parameters = dict(victim.named_parameters())
    values = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(parameters, values, strict=True))


def sample_gradients(victim: Victim, given: ModelInput, labels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Gradients of each sample's own loss, a few samples at a time.

    By `torch.func`, which takes any model: hooks on layers, as Opacus sets them, see neither a class token nor a position
    table, which are parameters without a layer of their own, nor the table that MJP exchanges for one pass.

    Args:
        victim: The model; its mode decides.
        given: What the model is fed; may be no image at all.
        labels: `[batch]` int64.

    Returns:
        Parameter name to `[batch, *shape]`, and the losses `[batch]`.

    Raises:
        UserError: The samples of a batch do not have gradients of their own.
    """
    mixing = (nn.modules.batchnorm._BatchNorm, DecorrelatedBatchNorm)
    if victim.training and any(isinstance(module, mixing) for module in victim.modules()):
        raise UserError(
            "a defense on single samples (dpsgd) needs a model that treats them one by one, and batch normalisation in train "
            "mode mixes them; choose a model without batch normalisation, or, for an attack, --set threat_model.model_mode=eval"
        )

    def loss(parameters: dict[str, Tensor], image: Tensor, label: Tensor, noise: dict[str, Tensor]) -> Tensor:
        alone = ModelInput(image[None], given.unknown_positions, {name: value[:, None] for name, value in noise.items()})
        return client_loss(victim, alone, label[None], parameters)

    of_several = vmap(grad_and_value(loss), in_dims=(None, 0, 0, 1), randomness="different")
    parameters = {name: value.detach() for name, value in victim.named_parameters()}
    batch = len(given.images)
    samples = {name: value.new_empty(batch, *value.shape) for name, value in parameters.items()}
    losses = given.images.new_empty(batch)
    size = _CHUNK_ON_GPU if given.images.is_cuda else _CHUNK
    for start in range(0, batch, size):
        chunk = slice(start, start + size)
        noise = {name: value[:, chunk] for name, value in given.layer_noise.items()}
        gradients, losses[chunk] = of_several(parameters, given.images[chunk], labels[chunk], noise)
        for name, values in gradients.items():
            samples[name][chunk] = values
    return samples, losses
