"""The client: private images, a model and a defense go in; what the server sees and what stays secret come out."""

import torch
from torch import Tensor, nn
from torch.func import grad_and_value, vmap

from privbench.core import Defense, ModelInput, ModelSpec, Observation, Secret, ThreatModel, UserError
from privbench.models import Victim, client_loss

__all__ = ["observe", "sample_gradients"]

_CHUNK = 16
"""Samples whose gradients are computed at a time: more are hardly faster and take more memory."""


def observe(
    victim: Victim,
    model: ModelSpec,
    defense: Defense,
    images: Tensor,
    labels: Tensor,
    *,
    declared: str,
    threat_model: ThreatModel,
    generator: torch.Generator,
) -> tuple[Observation, Secret]:
    """Computes one client update: the gradient of the mean cross-entropy over the batch, and of what layers add to it.

    Training losses of the defense (MJP's DAL) are not part of the update: they depend on weights and mask alone and carry
    nothing of the images. A defense that works on single samples is given the gradient of each sample's own loss.

    Args:
        victim: The client's model; its mode and gradients are left as found.
        model: The architecture as the server declared it.
        defense: Applied to batch and gradient; `prepare_model` has been applied to `victim` before.
        images: `[batch, 3, height, width]` in [0, 1].
        labels: `[batch]` int64.
        declared: The defense as the client declares it, `name:key=value` joined by `+`.
        threat_model: What the attacker may assume.
        generator: Source of the defense's random choices; the model's own (dropout) are seeded from it.

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
        if defense.takes_samples():
            samples, _ = sample_gradients(victim, protected.model_input, labels)
            gradients = defense.protect_samples(samples, generator)
        else:
            gradients = _of_batch(victim, protected.model_input, labels)
    victim.train(was_training)
    gradients = defense.protect_gradients(gradients, generator)
    observation = Observation(
        gradients=gradients,
        model=model,
        model_state=victim.state_dict(),
        batch_size=len(images),
        threat_model=threat_model,
        defense=declared,
        labels=labels if threat_model.labels == "known" else None,
        disclosed=protected.choices if threat_model.adversary == "oracle" else {},
    )
    return observation, Secret(images, labels, protected.model_input.images.detach(), protected.choices)


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
    if victim.training and any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in victim.modules()):
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
    for start in range(0, batch, _CHUNK):
        chunk = slice(start, start + _CHUNK)
        noise = {name: value[:, chunk] for name, value in given.layer_noise.items()}
        gradients, losses[chunk] = of_several(parameters, given.images[chunk], labels[chunk], noise)
        for name, values in gradients.items():
            samples[name][chunk] = values
    return samples, losses
