"""Relocation: patches in the wrong places are found by their position gradients."""

from collections.abc import Mapping

import torch

from privbench.core import ComputeOptions, Progress
from privbench.core.patches import rearrange, to_patches
from privbench.inversion import (
    Adam,
    Constant,
    Inversion,
    MatchingTerm,
    Pixels,
    Relocation,
    SquaredError,
    parameter_gradients,
    relocation_order,
)
from privbench.inversion.loop import OptimisationLoop
from privbench.inversion.problem import Target
from privbench.models import build_model, default_spec


def test_a_permuted_table_is_put_back(generator: torch.Generator) -> None:
    observed = torch.randn(12, 6, generator=generator)
    places = torch.randperm(12, generator=generator)
    candidate = observed[places] / 128  # the scale does not matter
    order = relocation_order(candidate, observed)
    assert torch.equal(candidate[order] * 128, observed)


def test_nothing_moves_without_evidence(generator: torch.Generator) -> None:
    assert relocation_order(torch.zeros(5, 3), torch.zeros(5, 3)).tolist() == [0, 1, 2, 3, 4]
    table = torch.randn(5, 3, generator=generator)
    assert relocation_order(table, table).tolist() == [0, 1, 2, 3, 4]


def test_position_gradients_bring_most_swapped_patches_home(generator: torch.Generator) -> None:
    spec = default_spec("vit_mini_patch4_32")
    victim = build_model(spec).eval()
    truth = torch.rand(1, 3, 32, 32, generator=generator)
    swapped = truth.clone()
    swapped[..., 0:4, 0:4], swapped[..., 20:24, 12:16] = truth[..., 20:24, 12:16], truth[..., 0:4, 0:4]
    name = "network.pos_embed"

    def loss(parameters: Mapping[str, torch.Tensor], images: torch.Tensor, context: Mapping[str, torch.Tensor]) -> torch.Tensor:
        logits = torch.func.functional_call(victim, dict(parameters), (images,))
        return torch.nn.functional.cross_entropy(logits, torch.tensor([4]))

    parameters = {name: dict(victim.named_parameters())[name].detach()}
    target = parameter_gradients(loss, parameters, truth[None], {})[name][0, 0, 1:]
    candidate = parameter_gradients(loss, parameters, swapped[None], {})[name][0, 0, 1:]
    order = relocation_order(candidate, target)
    assert torch.equal(rearrange(swapped, order, 4), truth)


def test_patches_move_with_adams_memory_of_them(generator: torch.Generator) -> None:
    def loss(parameters: Mapping[str, torch.Tensor], images: torch.Tensor, context: Mapping[str, torch.Tensor]) -> torch.Tensor:
        # A row's gradient is the patch in its place.
        return (parameters["table"] * to_patches(images, 4).flatten(2)).sum()

    truth, order = torch.rand(1, 3, 8, 8, generator=generator), torch.tensor([2, 0, 3, 1])
    relocation = Relocation(frozenset({0}), "table", 0, 4, lambda images, order: rearrange(images, order, 4))
    problem = Inversion(
        simulate=loss,
        parameters={"table": torch.zeros(1, 4, 48)},
        matching=[MatchingTerm("gradient", Constant(1.0), SquaredError())],
        priors=[],
        steps=3,
        parametrisation=Pixels(Adam(Constant(0.1))),
        relocation=relocation,
    )
    target = Target({"table": to_patches(truth, 4).flatten(2)}, rearrange(truth, order, 4)[None])
    loop = OptimisationLoop(problem, [target], Progress(), ComputeOptions())
    pixels, *moments = loop.state.moving.tensors
    before = [torch.rand(moment.shape, generator=generator) for moment in moments]
    loop.state.moving = loop.state.moving.like([pixels, *before])
    loop._relocate(relocation)
    pixels, *after = loop.state.moving.tensors
    assert torch.equal(pixels[0, 0], truth)
    assert len(after) == 2
    for old, new in zip(before, after, strict=True):
        assert torch.equal(new[0, 0], rearrange(old[0, 0], order.argsort(), 4))
