"""A user's own module: its names stay its own, its attention can be differentiated twice, and a trunk needs no classifier."""

from typing import Literal

import pytest
import torch
from timm.models import VisionTransformer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

import privbench
from privbench.core import UserError
from privbench.updates import UpdateSource, observation_of


def _trunk() -> VisionTransformer:
    torch.manual_seed(0)
    network = VisionTransformer(img_size=16, patch_size=4, embed_dim=96, depth=2, num_heads=2, num_classes=5).eval()
    assert network.pos_embed is not None
    nn.init.normal_(network.pos_embed, std=0.02)
    return network


class Wrapped(nn.Module):
    """A transformer of timm as a part, under a name that wrappers or other libraries use too."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.add_module(name, _trunk())
        self.scale = nn.Parameter(torch.ones(5))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.get_submodule(self.name)(images)
        return self.scale * logits


class Fused(nn.Module):
    """A classifier with torch's fused attention, as torchvision and Hugging Face use it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Conv2d(3, 16, 4, 4)
        self.qkv, self.head = nn.Linear(16, 48), nn.Linear(16, 5)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.embed(images).flatten(2).mT
        query, key, value = self.qkv(tokens).unflatten(2, (1, 48)).transpose(1, 2).chunk(3, dim=3)
        logits: Tensor = self.head(scaled_dot_product_attention(query, key, value)[:, 0].mean(1))
        return logits


def _gradients(model: nn.Module) -> dict[str, Tensor]:
    loss = cross_entropy(model(torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))), torch.tensor([3]))
    names, values = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, values), strict=True))


@pytest.mark.parametrize("name", ["vit", "model", "module", "backbone"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_names_of_the_module_stay_as_they_are(name: str, prefix: str) -> None:
    model = Wrapped(name)
    update = _gradients(model)
    weights = {f"{prefix}{key}": value for key, value in model.state_dict().items()}
    sent = {f"{prefix}{key}": value for key, value in update.items()}
    observation, victim = observation_of(UpdateSource(model=model, update=sent, weights=weights, image_size=16))
    assert observation.update.keys() == {f"network.{key}" for key in update}
    assert torch.equal(victim.get_parameter(f"network.{name}.head.weight"), model.get_parameter(f"{name}.head.weight"))


def test_fused_attention_of_other_libraries_is_matched_like_any_other() -> None:
    model = Fused()
    report = privbench.audit(model, _gradients(model), image_size=16, attacks="inverting-gradients:steps=2", self_test=False)
    assert report.findings[0].outcome == "ran"


@pytest.mark.parametrize("sign", [1, -0.01])
def test_of_a_trunk_whose_loss_nobody_knows_the_image_is_found(sign: float) -> None:
    model = _trunk()
    weights = {name: value for name, value in model.state_dict().items() if not name.startswith("head.")}
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    # A client with a head and a loss of its own.
    loss = (model.forward_features(image)[:, 0].square() @ torch.linspace(-1, 1, 96)).exp().sum()
    names = [name for name, _ in model.named_parameters() if name in weights]
    values = torch.autograd.grad(loss, [model.get_parameter(name) for name in names])
    update = {name: sign * value for name, value in zip(names, values, strict=True)}
    kind: Literal["gradient", "delta"] = "gradient" if sign > 0 else "delta"
    report = privbench.audit(
        model,
        update,
        weights=weights,
        kind=kind,
        learning_rate=0.01 if sign < 0 else None,
        steps=1 if sign < 0 else None,
        attacks="closed-form",
        self_test=False,
        mean=[0.0],
        std=[1.0],
    )
    assert any("stands for it" in note for note in report.notes)
    assert report.verdict == "found"
    assert report.best is not None
    assert (report.best.images - image).square().mean() < 1e-4


def test_what_weights_lack_of_a_classifier_is_said() -> None:
    model = _trunk()
    update, weights = _gradients(model), dict(model.state_dict())
    trunk = {name: value for name, value in weights.items() if not name.startswith("head.")}
    source = UpdateSource(model=model, update={"cls_token": update["cls_token"]}, weights=trunk)
    observation_of(source)
    assert any("says little" in note for note in source.notes)
    without_bias = {name: value for name, value in weights.items() if name != "head.bias"}
    source = UpdateSource(model=model, update=update, weights=without_bias)
    _, victim = observation_of(source)
    assert not victim.get_parameter("network.head.bias").any()
    assert any("taken to be zero" in note for note in source.notes)
    with pytest.raises(UserError, match=r"the weights lack norm\.weight"):
        observation_of(
            UpdateSource(model=model, update=update, weights={k: v for k, v in weights.items() if k != "norm.weight"})
        )
