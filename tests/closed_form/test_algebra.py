"""The linear algebra of the closed forms against slow, independent computations."""

import pytest
import torch
from torch import Tensor

from privbench.adversary import simulate
from privbench.closed_form.embedding import PatchEmbedding, token_gradients
from privbench.closed_form.first_block import FirstBlock
from privbench.closed_form.moments import Moments
from privbench.closed_form.row_space import least_squares, row_space
from privbench.closed_form.smoothness import smooth_precision
from privbench.core.patches import to_patches
from privbench.models import Victim
from tests.conformance import client_update, some_images


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_least_squares_is_the_pseudo_inverse_and_drops_what_is_below_the_cutoff() -> None:
    matrix, target = normal(9, 5), normal(9, 2, seed=1)
    assert torch.allclose(least_squares(matrix, target, cutoff=1e-12), torch.linalg.pinv(matrix) @ target)
    matrix[:, 4] = matrix[:, 3] + 1e-9 * normal(9, seed=2)
    solution = least_squares(matrix, target, cutoff=1e-6)
    assert solution.abs().max() < 10
    assert torch.allclose(solution[3], solution[4], atol=1e-6)


def test_the_complement_is_orthogonal_to_every_row_even_where_rows_repeat() -> None:
    rows = normal(7, 20)
    gradient = normal(30, 7, seed=1) @ rows
    for rank in (7, 9):
        space = row_space(gradient, rank)
        assert space.complement.shape == (20 - rank, 20)
        assert (space.complement @ rows.T).abs().max() < 1e-12
    assert row_space(gradient, 7).gap > 1e8 > 1e3 > row_space(gradient, 6).gap


def test_the_embedding_gives_the_tokens_that_the_network_computes() -> None:
    update = client_update()
    model = update.victim
    embedding = PatchEmbedding.of(model)
    normalised = (some_images() - model.mean) / model.std
    patches = to_patches(normalised, 4)[0].flatten(1).double()
    seen: list[Tensor] = []
    hook = model.network.get_submodule("blocks.0").register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        model(some_images())
    hook.remove()
    tokens = torch.cat([embedding.prefix, patches @ embedding.weight.T + embedding.bias + embedding.positions])
    assert torch.allclose(seen[0][0].double(), tokens, atol=1e-5)
    assert torch.allclose(embedding.images(patches), some_images(), atol=1e-6)
    assert embedding.excess(patches).max() < 1e-6
    assert torch.allclose(embedding.excess(patches * 0 + 100), torch.tensor(100 * 0.261 - 1 + 0.4465).double(), rtol=0.05)


def test_token_gradients_are_those_of_the_tokens() -> None:
    update = client_update()
    seen: list[Tensor] = []
    hook = update.victim.network.get_submodule("pos_drop").register_forward_hook(lambda _m, _g, out: seen.append(out))
    loss = torch.nn.functional.cross_entropy(update.victim(update.secret.images), update.secret.labels)
    hook.remove()
    (wanted,) = torch.autograd.grad(loss, seen)
    assert torch.allclose(token_gradients(update.victim, update.observation), wanted[0, 1:].double(), atol=1e-7)


def _moment_of_the_first_norm(model: Victim, images: Tensor, labels: Tensor) -> Tensor:
    """`Σ w t tᵀ` from the forward and backward pass, token by token."""
    block = FirstBlock.of(model)
    seen: list[Tensor] = []
    norm = model.network.get_submodule("blocks.0.norm1")
    hook = norm.register_forward_hook(lambda _m, given, out: seen.extend([given[0], out]))
    loss = torch.nn.functional.cross_entropy(model(images), labels)
    hook.remove()
    (gradient,) = torch.autograd.grad(loss, [seen[1]])
    tokens = (seen[0] - seen[0].mean(-1, keepdim=True))[0].detach().double()
    deviations = tokens.square().mean(1).add(1e-6).sqrt()
    weights = (block.scale * gradient[0].double() * tokens).mean(1) / deviations**3
    return (weights[:, None] * tokens).T @ tokens


def test_the_first_moment_is_the_sum_over_the_tokens_that_autograd_sees() -> None:
    update = client_update()
    moments = Moments.of(simulate(update.observation).model, update.observation, 65)
    assert moments is not None
    wanted = _moment_of_the_first_norm(update.victim, update.secret.images, update.secret.labels)
    found = moments.basis @ moments.first @ moments.basis.T
    assert (found - wanted).norm() < 0.05 * wanted.norm()


@pytest.mark.parametrize("size", [2, 4])
def test_a_smooth_patch_is_likelier_than_the_same_pixels_shuffled(size: int) -> None:
    precision = smooth_precision(size)
    assert torch.linalg.eigvalsh(precision).min() > 0
    smooth = torch.linspace(-1, 1, size, dtype=torch.float64).repeat(3, size, 1).flatten()
    shuffled = smooth[torch.randperm(len(smooth), generator=torch.Generator().manual_seed(0))]
    assert smooth @ precision @ smooth < shuffled @ precision @ shuffled / 2
