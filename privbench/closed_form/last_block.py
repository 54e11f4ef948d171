"""What the last block did to each image of a batch, from one update: exact, whatever lies before it.

A vision transformer with a class token sends derivatives into its last block through B class tokens alone, so that the
gradients of its layers are sums of B outer products. The rows of fc1's gradient span what the MLP read of the class tokens,
those of fc2's its activations; only the class tokens pass both, and a few starts find all of them (the test of `activations`,
in B dimensions instead of B (N + 1)). With them known, the block is undone layer by layer: each further gradient has one
known factor. What comes out for each image are its label, its probabilities, its class token before the block and two
weighted means of all its tokens a head. Ours; derivation in docs/research/batches.md.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import grad

from privbench.closed_form.first_block import centred
from privbench.closed_form.plain_update import Update, scaling_of
from privbench.closed_form.starts import solved_from
from privbench.core import Observation
from privbench.models import Victim

__all__ = ["LastBlock", "last_block"]

_STARTS_PER_IMAGE = 16
_STEPS = 40
_TOKEN = 1e-4
"""Squared relative error up to which a start ended at a class token; exact updates have about 1e-12."""
_APART = 1e-2
"""Distance, relative to their length, below which two ends are one class token."""


@dataclass(frozen=True)
class LastBlock:
    """What a batch's class tokens saw in the last block, in ascending order of the labels.

    Attributes:
        labels: `[images]` int64.
        residuals: `[images, classes]`, the derivative of the batch's mean loss by the logits.
        token: `[images, width]`, the class token behind the block's first LayerNorm.
        senders: `[images, heads, head width]`, the derivative of the loss by what each head puts out for the class token.
        values: `[images, heads, width]`, `Σ_t p_t x_t` over an image's tokens x behind that LayerNorm; p is what the class
            token attends to.
        keys: `[images, heads, width]`, `Σ_t p_t (s·v_t - Σ p s·v) x_t`, with the senders s and the values v of tokens.
        error: `[images]`, by how much two ways to the same output of the attention differ, relative to it.
    """

    labels: Tensor
    residuals: Tensor
    token: Tensor
    senders: Tensor
    values: Tensor
    keys: Tensor
    error: Tensor


def last_block(model: Victim, observation: Observation) -> LastBlock | None:
    """Undoes the last block.

    Args:
        model: The simulated client's.
        observation: What the attacker sees: a gradient whose entries are exact.

    Returns:
        None where the model is built otherwise, gradients are missing, or not all class tokens were found (noise, or more
        images than a head is wide).
    """
    network, images = cast(Any, model.network), observation.batch_size
    if not len(getattr(network, "blocks", ())):
        return None
    update = Update.of(model, observation)
    if not _applies(model, update, images):
        return None
    place = f"network.blocks.{len(network.blocks) - 1}."
    values, given = (
        {name.removeprefix(place): value for name, value in table.items() if name.startswith(place)}
        for table in (update.values, update.given)
    )
    block = network.blocks[-1]
    read = _class_tokens(values, given, block.mlp.act, images)
    if read is None:
        return None
    unit = (read - values["norm2.bias"]) / values["norm2.weight"]
    before = read @ values["mlp.fc1.weight"].T + values["mlp.fc1.bias"]
    active = block.mlp.act(before)
    sent = _solved(active, given["mlp.fc2.weight"].T)
    added = centred(active @ values["mlp.fc2.weight"].T + values["mlp.fc2.bias"])
    # Behind the last LayerNorm a derivative is orthogonal to the token in front of it, which fixes how long that was.
    size = -(sent * added).sum(dim=1, keepdim=True) / (sent * unit).sum(dim=1, keepdim=True)
    last = size * unit + added
    labels, residuals = _labelled(model, update, last, sent)
    order = labels.argsort(stable=True)
    unit, before, sent, size = (rows[order] for rows in (unit, before, sent, size))
    slope = grad(lambda inputs: block.mlp.act(inputs).sum())(before)
    through = ((sent @ values["mlp.fc2.weight"]) * slope) @ values["mlp.fc1.weight"]
    middle = size * unit
    sent = sent + _behind_norm(through, unit, values["norm2.weight"], size)
    outputs = _solved(sent, given["attn.proj.weight"])
    first = middle - centred(outputs @ values["attn.proj.weight"].T + values["attn.proj.bias"])
    token = first / _spread(first, block.norm1) * values["norm1.weight"] + values["norm1.bias"]
    senders, means, keys, error = _attended(token, sent @ values["attn.proj.weight"], outputs, values, given, block.attn)
    return LastBlock(labels[order], residuals[order], token, senders, means, keys, error)


def _applies(model: Victim, update: Update, images: int) -> bool:
    """Whether the network ends with a plain block, a LayerNorm and a classifier of the class token, and all of it was sent."""
    network = cast(Any, model.network)
    blocks = list(network.blocks)
    if getattr(network, "global_pool", None) != "token" or not getattr(network, "num_prefix_tokens", 0):
        return False
    block, attention = blocks[-1], getattr(blocks[-1], "attn", None)
    absent = (
        getattr(network, "fc_norm", nn.Identity()),
        *(getattr(attention, name, nn.Identity()) for name in ("q_norm", "k_norm", "norm")),
        getattr(getattr(block, "mlp", None), "norm", nn.Identity()),
    )
    plain = all(isinstance(layer, nn.Identity) for layer in absent) and isinstance(getattr(attention, "qkv", None), nn.Linear)
    norms = (getattr(network, "norm", None), getattr(block, "norm1", None), getattr(block, "norm2", None))
    if not plain or not all(isinstance(layer, nn.LayerNorm) and layer.elementwise_affine for layer in norms):
        return False
    if any(scaling_of(block, name) is None for name in ("ls1", "ls2")):
        return False
    place = f"network.blocks.{len(blocks) - 1}."
    layers = [f"{place}{layer}" for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")]
    weights = [f"{layer}.weight" for layer in layers]
    biases = [f"{layer}.bias" for layer in (*layers[1:], f"{place}norm1", f"{place}norm2")]
    if not {*model.classifier_names(), "network.norm.bias", *weights, *biases} <= update.values.keys():
        return False
    hidden, width = update.values[weights[2]].shape
    gated = update.values[weights[3]].shape != (width, hidden)
    return set(weights) <= update.given.keys() and not gated and images <= width // cast(Any, attention).num_heads


def _class_tokens(values: dict[str, Tensor], given: dict[str, Tensor], activation: nn.Module, images: int) -> Tensor | None:
    """What the MLP read of each image's class token, `[images, width]`; None where not all were found."""
    basis, space = (torch.linalg.svd(given[f"mlp.{layer}.weight"], full_matrices=False)[2][:images] for layer in ("fc1", "fc2"))
    scale, shift = values["norm2.weight"], values["norm2.bias"]
    reader, offset = basis @ values["mlp.fc1.weight"].T, values["mlp.fc1.bias"]

    flat, middle = basis / scale, shift / scale

    def problem(coordinates: Tensor) -> tuple[Tensor, Tensor]:
        before = coordinates @ reader + offset
        active, slope = activation(before), grad(lambda inputs: activation(inputs).sum())(before)
        outside, moves = _outside(active, space), _outside((slope[:, None] * reader), space)
        # A LayerNorm put it out: mean 0 and mean square 1.
        unit = coordinates @ flat - middle
        square, mean = unit.square().mean(dim=1, keepdim=True) - 1, 3 * unit.mean(dim=1, keepdim=True)
        turned = (2 * unit @ flat.T / unit.shape[1])[:, None], (3 * flat.mean(dim=1)).expand(len(unit), 1, -1)
        size = active.norm(dim=1, keepdim=True) / 3
        errors = torch.cat([outside / size, square, mean], dim=1)
        return errors, torch.cat([moves.mT / size[..., None], *turned], dim=1)

    generator = torch.Generator().manual_seed(0)
    starts = torch.randn(_STARTS_PER_IMAGE * images, images, generator=generator, dtype=torch.float64).to(basis)
    ends, cost = solved_from(problem, nn.functional.normalize(starts, dim=1) * scale.norm(), _STEPS)
    kept = ends[:0]
    for one in cost.argsort().tolist():
        if not cost[one] < _TOKEN or len(kept) == images:
            break
        if not ((kept - ends[one]).norm(dim=1) < _APART * ends[one].norm()).any():
            kept = torch.cat([kept, ends[one : one + 1]])
    return kept @ basis if len(kept) == images else None


def _outside(rows: Tensor, space: Tensor) -> Tensor:
    """What of rows `[..., columns]` lies outside a space `[dimensions, columns]` of orthonormal rows."""
    return rows - (rows @ space.T) @ space


def _labelled(model: Victim, update: Update, last: Tensor, sent: Tensor) -> tuple[Tensor, Tensor]:
    """The label under which each image sends back what it did, `[images]`, and the residuals with it, `[images, classes]`."""
    weight, bias = (update.values[name] for name in model.classifier_names())
    norm = cast(Any, model.network).norm
    spread = _spread(last, norm)
    unit, scale = last / spread, update.values["network.norm.weight"]
    chances = ((unit * scale + update.values["network.norm.bias"]) @ weight.T + bias).softmax(dim=1)
    true = torch.eye(len(weight)).to(weight)
    misses = []
    for one in range(len(last)):
        expected = _behind_norm((chances[one] - true) @ weight / len(last), unit[one], scale, spread[one])
        misses.append((expected - sent[one]).norm(dim=1))
    labels = torch.stack(misses).argmin(dim=1)
    return labels, (chances - true[labels]) / len(last)


def _solved(factors: Tensor, total: Tensor) -> Tensor:
    """The rows b_i `[images, columns]` of `total = Σ a_i b_iᵀ`, with the factors a_i `[images, rows]` known."""
    solution: Tensor = torch.linalg.lstsq(factors.T, total).solution
    return solution


def _spread(rows: Tensor, norm: nn.LayerNorm) -> Tensor:
    """What a LayerNorm divides rows by that are centred, `[rows, 1]`."""
    return (rows.square().mean(dim=1, keepdim=True) + norm.eps).sqrt()


def _behind_norm(sent: Tensor, unit: Tensor, scale: Tensor, spread: Tensor) -> Tensor:
    """The derivative by a LayerNorm's input, from that by its output; `unit` is the normalised input."""
    inner = centred(sent * scale)
    return (inner - unit * (inner * unit).mean(dim=-1, keepdim=True)) / spread


def _attended(
    token: Tensor, sent: Tensor, outputs: Tensor, values: dict[str, Tensor], given: dict[str, Tensor], attention: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The means of an image's tokens from the gradients of values and keys, head by head."""
    heads = int(attention.num_heads)
    senders = sent.reshape(len(sent), heads, -1)
    weight = values["attn.qkv.weight"]
    read_query, _, read_value = weight.reshape(3, heads, -1, weight.shape[1])
    offset = values.get("attn.qkv.bias", torch.zeros_like(weight[:, 0])).reshape(3, heads, -1)
    _, by_key, by_value = given["attn.qkv.weight"].reshape(3, heads, -1, weight.shape[1])
    queries = torch.einsum("hed,bd->bhe", read_query, token) + offset[0]
    means = torch.stack([_solved(senders[:, head], by_value[head]) for head in range(heads)], dim=1)
    keys = torch.stack([_solved(queries[:, head], by_key[head]) for head in range(heads)], dim=1) / attention.scale
    again = (torch.einsum("hed,bhd->bhe", read_value, means) + offset[2]).flatten(1)
    return senders, means, keys, (again - outputs).norm(dim=1) / outputs.norm(dim=1)
