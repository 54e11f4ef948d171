"""The CNN of the image prior: embedded, from a file, with arguments of its builder; and what does not fit."""

from pathlib import Path

import pytest
import timm
import torch

from privbench.core import UserError
from privbench.models import load_prior, prior_for

pytestmark = pytest.mark.integration

BACKBONE = "mobilenetv2_035?num_classes=0&pad_type=same&bn_eps=1e-3&mean=0.5&std=0.5:"


def test_the_embedded_prior_is_for_32_pixels_and_left_out_above() -> None:
    prior = load_prior()
    assert prior.image_size == 32
    assert not prior.training
    assert not any(parameter.requires_grad for parameter in prior.parameters())
    assert prior_for("cnn_mini_32", 32) is not None
    assert prior_for("cnn_mini_32", 33) is None


def test_a_file_with_arguments_of_the_builder(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        network = timm.create_model("mobilenetv2_035", num_classes=0, pad_type="same")
    torch.save(network.state_dict(), tmp_path / "w.pth")
    prior = load_prior(f"{BACKBONE}{tmp_path / 'w.pth'}")
    assert prior.image_size == 224
    assert prior.mean.flatten().tolist() == [0.5, 0.5, 0.5]
    layer = next(module for module in prior.modules() if isinstance(module, torch.nn.BatchNorm2d))
    assert layer.eps == 1e-3
    assert torch.equal(prior.state_dict()["network.conv_stem.weight"], network.state_dict()["conv_stem.weight"])
    assert load_prior(f"{BACKBONE.removesuffix(':')}&size=96:{tmp_path / 'w.pth'}").image_size == 96


def test_real_statistics_describe_real_photos(shared_data: Path) -> None:
    """At the weights' own settings batch variances of photos are about the stored ones; under another padding they are not."""
    from privbench.data import open_images

    prior = load_prior(f"{BACKBONE}{shared_data / 'weights' / 'mobilenetv2_035-backbone.pth'}")
    images, _ = open_images(str(shared_data / "imagenet-val")).load(range(0, 100, 10), 224)
    ratios: list[float] = []
    for layer in (module for module in prior.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        layer.register_forward_pre_hook(
            lambda module, given: ratios.append(float((given[0].var((0, 2, 3)) / module.running_var).median()))
        )
    prior(images)
    assert 0.7 < sorted(ratios)[len(ratios) // 2] < 1.4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names no network"),
        ("resnet50?depth", "cannot read 'depth'"),
        ("resnet18?nonsense=1", "cannot be built"),
        ("resnet51", "unknown model 'resnet51'; did you mean"),
        ("vit_mini_patch4_32", "no batch-normalisation statistics"),
        ("cnn_mini_32:absent.pth", "no weights file absent.pth"),
    ],
)
def test_what_is_no_prior_is_refused_in_a_line(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        load_prior(text)
    assert "\n" not in str(caught.value)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"the weights of the prior .* lack"):
        load_prior(f"mobilenetv2_035:{tmp_path / 'w.pth'}")
