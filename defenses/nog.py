"""Nearest-orthogonal gradient (NOG) and optimal learning rate (OLR), Song et al., ECCV 2022 and TPAMI 2023, arXiv 2212.05599.

NOG replaces the gradient of a weight, reshaped to (outputs, rest) = U S Vᵀ, by U Vᵀ: all singular values are one. The paper
conditions the layer in front of a differentiable SVD with it and claims nothing for privacy. Here it is a transformation of
the client's update, because it erases the sizes by which a gradient tells its summands apart.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from privbench.core import AttackerView, Defense, Observation, TrainingRule, UserError
from privbench.models import Victim

__all__ = ["NearestOrthogonalGradient", "nearest_orthogonal", "optimal_learning_rate"]

_TINY = 1e-30
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

    def attacker_view(self, model: nn.Module, observation: Observation) -> AttackerView:
        """Simulates the transformation.

        Unaware: the plain gradient. Aware and oracle: the simulated gradients of the same weights are transformed as the
        client's were; there is no random choice to be told. Directions below the rank of the observed gradient are the client's
        rounding, which only the very same computation repeats; what is matched in them is chance.
        """
        return AttackerView() if observation.threat_model.adversary == "unaware" else AttackerView(send=self._sent)

    def _sent(
        self, simulated: Mapping[str, Tensor], _observed: Mapping[str, Tensor], _known: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        chosen = self._chosen({name: value.shape for name, value in simulated.items()})
        return dict(simulated) | {name: _simulated(simulated[name], self.cutoff) for name in chosen}

    def claim(self) -> str:
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
    left, values, right = torch.linalg.svd(matrix.mT if wide else matrix, full_matrices=False)
    kept = (values >= cutoff * values[0]) & (values[0] > 0)
    orthogonal: Tensor = (left * kept) @ right
    return (orthogonal.mT if wide else orthogonal).reshape(gradient.shape)


def _simulated(gradient: Tensor, cutoff: float) -> Tensor:
    """U Vᵀ of a simulated gradient G, with the derivative of G scaled to its length.

    The true derivative divides by sums of singular values, which reach down to rounding, and below the rank it is that of the
    rounding. With this one the slope of `<O, U Vᵀ>`, compared by cosine with the observed O, is along `O - cos U Vᵀ`: that of
    `<O, G> / sum of G's singular values`, which is at most 1, and 1 exactly where O is an orthogonal factor of G.
    """
    orthogonal = nearest_orthogonal(gradient.detach(), cutoff)
    length = orthogonal.norm() / gradient.detach().norm().clamp(min=_TINY)
    scaled = gradient * length
    sent: Tensor = scaled + (orthogonal - scaled).detach()
    return sent


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
