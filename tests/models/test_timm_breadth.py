"""Every transformer of timm is a victim or is refused in one line, and what cannot be attacked or defended says so in one."""

import warnings

import pytest
import torch
from torch.func import grad

from benchmarks.model_table import Answer, answer, transformers
from privbench.core import ModelInput, UserError, build_defense, resolve_defense
from privbench.models import build_model, client_loss, default_spec, load_victim, resolve_victim

pytestmark = pytest.mark.integration

SAMPLE = (
    "vit_tiny_patch16_224",
    "deit3_small_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "vit_small_patch14_reg4_dinov2",
    "vit_small_patch16_dinov3",
    "vit_base_patch16_siglip_224",
    "beit_base_patch16_224",
    "eva02_tiny_patch14_224",
    "cait_xxs24_224",
    "convit_tiny",
    "vit_relpos_small_patch16_224",
    "vit_tiny_r_s16_p8_224",
    "pit_ti_224",
    "xcit_nano_12_p16_224",
    "tnt_s_patch16_224",
    "swin_tiny_patch4_window7_224",
    "levit_128s",
)
"""All of them are asked in the nightly tests."""
LEARNED_ROWS = {
    "vit_tiny_patch16_224": True,
    "deit_tiny_distilled_patch16_224": True,
    "vit_small_patch14_reg4_dinov2": True,
    "vit_base_patch16_siglip_224": True,
    "eva02_tiny_patch14_224": True,
    "cait_xxs24_224": True,
    "beit_base_patch16_224": False,
    "vit_small_patch16_dinov3": False,
    "vit_tiny_r_s16_p8_224": False,
    "swin_tiny_patch4_window7_224": False,
}
"""Whether a model has a learned row for each patch, which closed-form, mjp and no-pe want."""
NONE = build_defense(resolve_defense("none"))


def _asked(name: str) -> Answer:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return answer(name)


def _says_it_in_a_line(found: Answer) -> None:
    for line in (found.refused, *found.defenses.values(), *found.attacks.values()):
        assert "\n" not in line
        assert len(line) < 500


@pytest.mark.parametrize("name", SAMPLE)
def test_a_model_is_taken_or_refused_in_a_line(name: str) -> None:
    found = _asked(name)
    _says_it_in_a_line(found)
    assert not found.refused
    assert not found.attacks["inverting-gradients"], "whoever only matches gradients takes every model"
    if name in LEARNED_ROWS:
        want_them = (found.attacks["closed-form"], found.defenses["mjp"], found.defenses["no-pe"])
        assert [not line for line in want_them] == [LEARNED_ROWS[name]] * 3


@pytest.mark.nightly
@pytest.mark.parametrize("name", transformers())
def test_every_model_is_taken_or_refused_in_a_line(name: str) -> None:
    _says_it_in_a_line(_asked(name))


# Networks that keep tensors which they make in a pass for the next one.
CACHING = ("levit_128s", "tiny_vit_5m_224", "convit_tiny")
OTHERS = sorted({"efficientformer_l1", "efficientformerv2_s0", "efficientvit_m0", *SAMPLE} - set(CACHING))


@pytest.mark.parametrize("name", [*CACHING, *(pytest.param(name, marks=pytest.mark.nightly) for name in OTHERS)])
def test_two_steps_of_gradient_matching_go_through_every_model(name: str) -> None:
    with torch.device("meta"), torch.no_grad():
        spec = default_spec(name)
        victim = build_model(spec).eval()
        parameters = {key: value.detach() for key, value in victim.named_parameters()}
        labels = torch.zeros(1, dtype=torch.int64)

        def distance(images: torch.Tensor) -> torch.Tensor:
            simulated = grad(lambda values: client_loss(victim, ModelInput(images), labels, values))(parameters)
            return torch.stack([value.square().sum() for value in simulated.values()]).sum()

        images = torch.rand(1, 3, spec.image_size, spec.image_size)
        for _ in range(2):
            assert grad(distance)(images).shape == images.shape


def test_a_pass_does_not_use_biases_of_earlier_parameters() -> None:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        victim = build_model(default_spec("levit_128s", num_classes=10)).eval()
        images = torch.rand(1, 3, 224, 224)
        # At random weights LeViT's blocks pass on what they are given.
        own = {name: value + 1 if "bn.weight" in name else value for name, value in victim.named_parameters()}
        changed = {name: torch.randn_like(value) if "attention_biases" in name else value for name, value in own.items()}
        before = torch.func.functional_call(victim, own, (images,))
        assert not torch.allclose(torch.func.functional_call(victim, changed, (images,)), before)
        assert torch.allclose(torch.func.functional_call(victim, own, (images,)), before)


@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "cait_xxs24_224", "eva02_tiny_patch14_224"])
def test_without_positions_nothing_is_left_of_them(name: str) -> None:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        victim = build_model(default_spec(name, num_classes=10)).eval()
        images = torch.rand(1, 3, victim.image_size, victim.image_size)
        before = victim(images)
        victim.remove_positions()
        # At random weights CaiT lets little of its patches through.
        assert not torch.equal(victim(images), before)
        assert victim.parts().position is None
        assert all("pos_embed" not in key for key in victim.state_dict())


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [
        ("vit_tiny_patch16_224", 33, "patches of 16 pixels, and 33 is no multiple of it; accepted: 32"),
        ("vit_tiny_patch16_224", 8, "and 8 is no multiple of it; accepted: 16"),
        ("crossvit_tiny_240", 64, "does not take images of 64 pixels .* its own size is 240"),
    ],
)
def test_image_sizes_that_do_not_fit_are_refused_in_a_line(name: str, size: int, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        resolve_victim(name, "random", NONE, image_size=size)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["cait_xxs24_224", "deit_tiny_distilled_patch16_224", "vit_tiny_r_s16_p8_224"])
def test_other_sizes_work_where_the_architecture_takes_them(name: str) -> None:
    spec = resolve_victim(name, "random", NONE, image_size=64)
    victim = load_victim(spec, NONE, generator=torch.Generator())
    assert victim(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)
