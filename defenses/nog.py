"""Nearest-orthogonal gradient (NOG) and optimal learning rate (OLR), Song et al., ECCV 2022 and TPAMI 2023, arXiv 2212.05599.

NOG replaces the gradient of a weight, reshaped to (outputs, rest) = U S Vᵀ, by U Vᵀ: all singular values are one. The paper
conditions the layer in front of a differentiable SVD with it and claims nothing for privacy. Here it is a transformation of
the client's update, because it erases the sizes by which a gradient tells its summands apart.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from privbench.closed_form.spectrum import ExpectedSpectrum, smooth_images
from privbench.core import AttackerView, Defense, ModelInput, Observation, TrainingRule, UserError
from privbench.models import Victim, client_loss

__all__ = ["NearestOrthogonalGradient", "nearest_orthogonal", "optimal_learning_rate"]

_EXAMPLES = 16
"""Of the adversary's own images: twice as many come hardly nearer (README.md)."""
_SEED = 2212
"""Of those images: the same for every client."""
_GROUPS = {"all": ("",), "attention": (".attn.",), "mlp": (".mlp.",), "embedding": ("patch_embed.", "pos_embed")}


class NearestOrthogonalGradient(Defense):
    """Sends the orthogonal factor of each weight matrix's gradient in place of the gradient."""

    name: ClassVar[str] = "nog"

    layers: str = "all"
    """Whose gradients: `all`, `attention`, `mlp`, `embedding` (patches and positions), or how the names begin, such as
    `network.blocks.0`. Vectors (biases, norms, class token) are never changed."""
    cutoff: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Singular values below this share of the largest become zero instead of one; published: 0."""
    olr: bool = False
    """Training: whether these weights take the optimal learning rate where it is smaller than the schedule's."""

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """Checks that there is a matrix to transform."""
        if not self._chosen({name: value.shape for name, value in model.named_parameters()}):
            network = type(model.network).__name__ if isinstance(model, Victim) else type(model).__name__
            raise UserError(
                f"defense nog finds no weight matrix of {network} under layers='{self.layers}'; accepted: "
                f"{', '.join(_GROUPS)}, or the beginning of a weight's name, such as network.blocks.0"
            )
        return model

    def training_rules(self, model: nn.Module) -> tuple[TrainingRule, ...]:
        """OLR, computed from U Vᵀ, where it is asked for; the optimiser gets U Vᵀ as the server does."""
        chosen = tuple(self._chosen({name: value.shape for name, value in model.named_parameters()}))
        return (TrainingRule(chosen, optimal_learning_rate),) if self.olr else ()

    def protect_gradients(self, gradients: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Replaces the chosen gradients; draws nothing."""
        chosen = self._chosen({name: value.shape for name, value in gradients.items()})
        return gradients | {name: nearest_orthogonal(gradients[name], self.cutoff) for name in chosen}

    def aware(self, model: nn.Module, observation: Observation) -> AttackerView:
        """The gradient that is expected behind U Vᵀ, as far as gradients of other images tell.

        They are what the client would have computed and sent of images that the adversary drew itself, with labels at random;
        there is no random choice that an oracle could be told.
        """

        def expected(names: Iterable[str]) -> dict[str, Tensor]:
            chosen = self._chosen({name: observation.gradients[name].shape for name in names})
            examples = _examples(cast(Victim, model), observation, chosen)
            return {name: self._expected(observation.gradients[name], of_weight) for name, of_weight in examples.items()}

        return AttackerView(expected=expected, remarks=("singular-values-expected",))

    def _expected(self, sent: Tensor, examples: list[Tensor]) -> Tensor:
        shape = _as_matrix(sent.shape)
        sent_of_examples = [nearest_orthogonal(example, self.cutoff).reshape(shape) for example in examples]
        spectrum = ExpectedSpectrum.of([example.reshape(shape) for example in examples], sent_of_examples)
        return spectrum.restored(sent.reshape(shape)).to(sent).reshape(sent.shape)

    def guarantee(self) -> str:
        """Nothing was claimed."""
        return (
            "No privacy is claimed by its authors; as a transformation of the update it erases the singular values of every "
            "weight matrix's gradient, and nothing of vectors."
        )

    def _chosen(self, shapes: Mapping[str, torch.Size]) -> list[str]:
        parts = _GROUPS.get(self.layers)
        matrices = [name for name, shape in shapes.items() if min(_as_matrix(shape)) > 1]
        return [name for name in matrices if (_holds(name, parts) if parts else name.startswith(self.layers))]


def _holds(name: str, parts: Iterable[str]) -> bool:
    return any(part in name for part in parts)


def _as_matrix(shape: torch.Size) -> tuple[int, int]:
    """Rows and columns: outputs and the rest, as published; a table `[1, rows, width]` of token rows is that table."""
    if len(shape) == 3 and shape[0] == 1:
        return shape[1], shape[2]
    return (shape[0], math.prod(shape[1:])) if len(shape) > 1 else (1, math.prod(shape))


def nearest_orthogonal(gradient: Tensor, cutoff: float = 0.0) -> Tensor:
    """U Vᵀ of a gradient U S Vᵀ, in its own shape; a gradient that is all zero stays so.

    Below the rank of the gradient (a batch of one image has as many ranks as tokens) the singular vectors, which are rounding,
    get the value one like the others, as in the published code, unless `cutoff` leaves them out.

    Args:
        gradient: Of a weight.
        cutoff: Singular values below this share of the largest become zero.
    """
    matrix = gradient.reshape(_as_matrix(gradient.shape))
    wide = matrix.shape[0] < matrix.shape[1]
    # Twice as fast of a tall matrix as of its transpose.
    tall = matrix.mT if wide else matrix
    # A GPU takes several times as long for one matrix of this size as a CPU.
    found = torch.linalg.svd(tall.cpu() if tall.is_cuda else tall, full_matrices=False)
    left, values, right = (part.to(matrix.device) for part in found)
    kept = (values >= cutoff * values[0]) & (values[0] > 0)
    orthogonal: Tensor = (left * kept) @ right
    return (orthogonal.mT if wide else orthogonal).reshape(gradient.shape)


def _examples(model: Victim, observation: Observation, names: list[str]) -> dict[str, list[Tensor]]:
    """Gradients of these weights, of `_EXAMPLES` batches like the client's, of images that anybody may draw."""
    generator = torch.Generator().manual_seed(_SEED)
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    size, found = observation.batch_size, dict[str, list[Tensor]]({name: [] for name in names})
    for _ in range(_EXAMPLES if names else 0):
        images = smooth_images(size, observation.model.image_size, generator=generator).to(observation.device)
        labels = torch.randint(observation.model.num_classes, (size,), generator=generator).to(observation.device)
        weights = {name: parameters[name].clone().requires_grad_() for name in names}
        loss = client_loss(model, ModelInput(images), labels, parameters | weights)
        gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True, materialize_grads=True)
        for name, gradient in zip(names, gradients, strict=True):
            found[name].append(gradient)
    return found


def optimal_learning_rate(weight: Tensor, gradient: Tensor, scheduled: float) -> float:
    """OLR: `(wᵀw lᵀw) / (wᵀw lᵀl + 2 (lᵀw)²)` with w the weight and l its gradient, both as vectors.

    It is one Newton step, from a rate of zero, on the fourth power of the norm of the updated weight `w - rate l`. Derived for
    gradient descent; under another optimiser it scales that optimiser's step.

    Returns:
        The optimal rate where it lies between 0 and the scheduled one, else the scheduled one.
    """
    w, g = weight.detach().flatten().double(), gradient.detach().flatten().double()
    ww, gw, gg = float(w @ w), float(g @ w), float(g @ g)
    denominator = ww * gg + 2 * gw**2
    rate = ww * gw / denominator if denominator > 0 else 0.0
    return rate if 0 < rate < scheduled else scheduled
