"""Convolutions over patches as products: the same function with the same derivatives, and no other convolution touched."""

import pytest
import torch
from torch import nn

from privbench.models.patch_products import PatchConvolution, use_products


@pytest.mark.parametrize(("kernel", "bias", "size"), [(4, True, (8, 12)), (3, False, (8, 11)), ((2, 4), True, (8, 8))])
def test_it_is_the_same_convolution(
    kernel: int | tuple[int, int], bias: bool, size: tuple[int, int], generator: torch.Generator
) -> None:
    plain = nn.Conv2d(3, 5, kernel, stride=kernel, bias=bias).double()
    exchanged = nn.Sequential(nn.Conv2d(3, 5, kernel, stride=kernel, bias=bias)).double()
    exchanged[0].load_state_dict(plain.state_dict())
    use_products(exchanged)
    assert isinstance(exchanged[0], PatchConvolution)
    assert list(exchanged.state_dict()) == [f"0.{name}" for name in plain.state_dict()]
    images = torch.rand(2, 3, *size, generator=generator, dtype=torch.float64)

    def derivatives(network: nn.Module) -> list[torch.Tensor]:
        leaf = images.clone().requires_grad_()
        weight = next(network.parameters())
        found = network(leaf)
        (slope,) = torch.autograd.grad(found.sin().sum(), [weight], create_graph=True)
        return [found, slope, *torch.autograd.grad(slope.square().sum(), [leaf])]

    for one, other in zip(derivatives(plain), derivatives(exchanged), strict=True):
        assert torch.allclose(one, other)


def test_convolutions_that_overlap_or_are_padded_stay() -> None:
    others = nn.Sequential(
        nn.Conv2d(3, 3, 3),
        nn.Conv2d(3, 3, 2, stride=2, padding=1),
        nn.Conv2d(3, 3, 2, stride=2, groups=3),
        nn.Conv2d(3, 3, 2, stride=2, dilation=2),
        nn.Conv2d(3, 3, 2, stride=2, padding="valid"),
        nn.Conv2d(3, 3, 1),
    )
    use_products(others)
    assert all(type(module) is nn.Conv2d for module in others)
