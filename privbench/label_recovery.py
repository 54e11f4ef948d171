"""Labels from the gradient of the last layer, by one of several published rules.

With cross-entropy the gradient of the classifier's bias is the mean over the batch of (probability - one-hot), so the classes
present are those whose entries are low; for a batch of one the true class is the only negative entry.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from privbench.core import Observation, UserError, short_name

__all__ = ["LabelRule", "has_sign_of_delta", "recover_labels"]

_BALANCED = 1e-3
"""Share of the bias gradient's size up to which its sum counts as zero."""

LabelRule = Literal["idlg", "last-layer", "bias-counts"]
"""`idlg`: a batch of one; `last-layer`: a batch without repeats; `bias-counts`: labels may repeat."""


def recover_labels(observation: Observation, weight: str, rule: LabelRule = "last-layer") -> Tensor:
    """The labels of a batch, as far as the rule can know them. The order within a batch cannot be known.

    - `idlg` (Zhao et al., arXiv 2001.02610), batch of one: the row of the classifier's weight gradient that points against all
      others. All rows are multiples of the same features, so the signs of the features do not matter. Two classes have opposite
      rows and cannot be told apart.
    - `last-layer` (GradInversion, Yin et al., CVPR 2021), no repeats: the `batch_size` classes with the lowest evidence.
      Evidence is the bias gradient where there is one (exact for a batch of one), else, as published, the lowest entry of the
      class's row in the weight gradient (exact for a batch of one with non-negative features).
    - `bias-counts`, repeats allowed, after LLG (Wainakh et al., PoPETs 2022): an image lowers its class's entry of the bias
      gradient by exactly 1 / batch size. Every class with a negative entry is present; then, label by label, the class whose
      entry is lowest once what was already counted is added back. Exact where the mean probabilities of the classes differ by
      less than 1 / batch size.

    Args:
        observation: What the attacker sees.
        weight: Name of the classifier's weight `[classes, width]`; its bias is used where the gradient holds one.
        rule: Which rule.

    Returns:
        `[batch]` int64, ascending.

    Raises:
        UserError: The rule does not apply to this batch or model.
    """
    if weight not in observation.update:
        raise UserError(
            f"labels are read off the update of {short_name(weight)}, which this client did not send; choose --labels known, "
            "or an attack that needs none: closed-form or subspace"
        )
    if has_sign_of_delta(observation, weight):
        raise UserError(
            "the classifier's bias has the sign of a weight delta, not of a gradient: labels read off it would be wrong; "
            "say that it is a delta (kind delta, --kind delta), or send minus the update"
        )
    return torch.sort(_RULES[rule](observation, weight)).values


def has_sign_of_delta(observation: Observation, weight: str) -> bool:
    """Whether an update that is called a gradient points the other way, as raw weight deltas do.

    The gradient of the classifier's bias sums to zero, and of a batch at most as many entries as images are negative. Where
    that holds of the positive entries alone, the sign is the other one. Noise hides it, and then nothing is said.

    Args:
        observation: What the attacker sees.
        weight: Name of the classifier's weight.
    """
    bias = _bias(observation, weight)
    if bias is None or len(bias) < 3:
        return False
    values, images = bias.double(), observation.batch_size
    sums_to_zero = values.sum().abs() <= _BALANCED * values.abs().sum()
    rising, falling = int((values > 0).sum()), int((values < 0).sum())
    return bool(sums_to_zero) and 0 < rising <= images < falling


def _bias(observation: Observation, weight: str) -> Tensor | None:
    return observation.gradients.get(weight.removesuffix("weight") + "bias")


def _by_opposition(observation: Observation, weight: str) -> Tensor:
    if observation.batch_size != 1:
        raise UserError(
            f"the label rule idlg is for one image, given {observation.batch_size}; accepted for batches: last-layer "
            "(no repeats), bias-counts"
        )
    rows = observation.gradients[weight].double()
    if len(rows) < 3:
        raise UserError(f"the label rule idlg needs three classes or more, given {len(rows)}; use last-layer")
    products = rows @ rows.T
    return (products.sum(1) - products.diagonal()).argmin()[None]


def _without_repeats(observation: Observation, weight: str) -> Tensor:
    gradient = observation.gradients[weight]
    if observation.batch_size > len(gradient):
        raise UserError(
            f"{observation.batch_size} images but {len(gradient)} classes: labels repeat and cannot be recovered from the "
            "last layer; use --labels known or a smaller batch"
        )
    bias = _bias(observation, weight)
    # Normalised features have both signs, so the weight's columns are less telling than the bias, which is the sum itself.
    evidence = bias if bias is not None else gradient.min(dim=1).values
    return torch.argsort(evidence)[: observation.batch_size]


def _by_counts(observation: Observation, weight: str) -> Tensor:
    bias = _bias(observation, weight)
    if bias is None:
        raise UserError("the label rule bias-counts needs a classifier with a bias; use last-layer")
    count = observation.batch_size
    present = torch.argsort(bias)[: min(count, int((bias < 0).sum()))].tolist()
    remaining = bias.double().clone()
    for label in present:
        remaining[label] += 1 / count
    found = list(present)
    while len(found) < count:
        label = int(remaining.argmin())
        remaining[label] += 1 / count
        found.append(label)
    return torch.tensor(found, device=bias.device)


_RULES: Mapping[LabelRule, Callable[[Observation, str], Tensor]] = {
    "idlg": _by_opposition,
    "last-layer": _without_repeats,
    "bias-counts": _by_counts,
}
