"""LoRA and frozen layers: the span of the tokens shows in an adapter's gradients where its rank exceeds their number."""

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import save_file

import privbench
from benchmarks.partial_updates import LOCAL, Adapter, client_update, victim_of
from privbench.adversary import simulate
from privbench.closed_form.combinations import Combinations
from privbench.closed_form.embedding import PatchEmbedding
from privbench.closed_form.first_block import FirstBlock
from privbench.core import ATTACKS, LocalTraining, Observation, Secret, UserError
from privbench.core.patches import to_patches
from privbench.data import open_images
from privbench.models.lora import with_lora
from privbench.replay import explained_share
from privbench.scoring import psnr

MODEL = "vit_mini_patch4_32"


def _adapters(rank: int, *, trained: bool, dora: bool = False) -> tuple[Observation, Secret]:
    pytest.importorskip("peft", reason="the extra 'peft' is not installed")
    victim, spec = victim_of("photos", MODEL, Adapter(rank, trained, dora))
    return client_update(victim, spec, *open_images("photos").load([0], 32), "lora_")


@pytest.mark.parametrize(("trained", "least"), [(False, 70), (True, 70)])
def test_adapters_of_a_high_rank_give_the_image_away(trained: bool, least: float) -> None:
    observation, secret = _adapters(128, trained=trained)
    assert all("lora_" in name for name in observation.update)
    first = observation.gradients["network.blocks.0.attn.qkv.lora_A.default.weight"]
    assert bool(first.any()) == trained  # B is zero at first
    found = ATTACKS.get("subspace")()(observation, generator=torch.Generator().manual_seed(0))
    assert float(psnr(found.images, secret.images)) > least


def _mean_colour(images: torch.Tensor) -> float:
    return float(psnr(images.mean((2, 3), keepdim=True).expand_as(images), images))


@pytest.mark.parametrize(("rank", "gain"), [(4, 1.0), (16, 3.0), (64, 15.0)])
def test_trained_adapters_of_a_low_rank_show_as_many_sums_of_patches(rank: int, gain: float) -> None:
    observation, secret = _adapters(rank, trained=True)
    model = simulate(observation).model
    embedding, block = PatchEmbedding.of(model), FirstBlock.of(model)
    found = Combinations.of(embedding, block, observation.gradients[block.down_name])
    true = to_patches((secret.images.double() - embedding.mean) / embedding.std, embedding.patch_size)[0].flatten(1)
    assert found.weights.shape == (rank, 64)
    exact = found.errors < 1e-5
    assert exact.any()
    assert (found.weights @ true - found.sums)[exact].abs().max() < 1e-3
    result = ATTACKS.get("subspace")()(observation, generator=torch.Generator().manual_seed(0))
    assert "few-combinations" in result.flags
    assert float(psnr(result.images, secret.images)) > _mean_colour(secret.images) + gain


def test_fresh_adapters_of_a_low_rank_are_left_to_matching_until_the_client_takes_a_second_step() -> None:
    observation, secret = _adapters(16, trained=False)
    with pytest.raises(UserError, match="needs a gradient of lora_A, which is zero as long as lora_B is"):
        ATTACKS.get("subspace")().require(observation)
    victim, spec = victim_of("photos", MODEL, Adapter(16))
    images, labels = open_images("photos").load([0], 32)
    delta, _ = client_update(victim, spec, images, labels, "lora_", LOCAL)
    found = ATTACKS.get("subspace")()(delta, generator=torch.Generator().manual_seed(0))
    assert float(psnr(found.images, secret.images)) > _mean_colour(secret.images) + 3


def test_adapters_with_lengths_of_their_own_show_the_same() -> None:
    observation, secret = _adapters(128, trained=True, dora=True)
    assert any("lora_magnitude_vector" in name for name in observation.update)
    found = ATTACKS.get("subspace")()(observation, generator=torch.Generator().manual_seed(0))
    assert float(psnr(found.images, secret.images)) > 70
    block = FirstBlock.of(simulate(observation).model)
    assert block.adapter is not None
    layer = cast(Any, simulate(observation).model.network).blocks[0].attn.qkv
    with torch.no_grad():
        whole = layer(torch.eye(192)) - layer.base_layer.bias
    assert torch.allclose(block.qkv.float().T, whole, atol=1e-5)


def test_adapters_of_the_patch_embedding_are_part_of_it() -> None:
    pytest.importorskip("peft", reason="the extra 'peft' is not installed")
    victim, _ = victim_of("photos", MODEL)
    plain = PatchEmbedding.of(victim).weight
    with_lora(victim.network, 4, targets=["qkv", "proj"], generator=torch.Generator().manual_seed(0))
    layer = cast(Any, victim.network).patch_embed.proj
    assert torch.allclose(PatchEmbedding.of(victim).weight, plain)
    torch.nn.init.normal_(layer.lora_B["default"].weight, generator=torch.Generator().manual_seed(0))
    changed = PatchEmbedding.of(victim)
    patch = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        token = layer(patch).flatten()
    assert not torch.allclose(changed.weight, plain)
    assert torch.allclose((changed.weight @ patch.double().flatten() + changed.bias).float(), token, atol=1e-5)


def test_an_audit_reads_adapters_as_peft_saves_them(tmp_path: Path) -> None:
    observation, secret = _adapters(128, trained=False)
    saved = {
        name.replace("network.", "base_model.model.").replace(".default", ""): value.contiguous()
        for name, value in observation.update.items()
    }
    save_file(saved, str(tmp_path / "adapter_model.safetensors"))
    weights = {name.removeprefix("network."): value for name, value in observation.model_state.items()}
    torch.save({name.replace(".base_layer", ""): value for name, value in weights.items()}, tmp_path / "global.pth")
    report = privbench.audit(
        MODEL,
        tmp_path / "adapter_model.safetensors",
        weights=tmp_path / "global.pth",
        lora="r=128",
        attacks=["closed-form", "subspace"],
        self_test=False,
    )
    assert report.verdict == "found"
    assert report.best is not None
    assert float(psnr(report.best.images, secret.images)) > 70
    with pytest.raises(UserError, match="--weights with the adapters' own"):
        privbench.audit(MODEL, tmp_path / "adapter_model.safetensors", lora="rank=4")


@pytest.mark.parametrize("part", [r"head", r"blocks\.0\."])
def test_frozen_layers_stay_and_a_simulated_client_freezes_them_too(part: str) -> None:
    victim, spec = victim_of("photos", MODEL)
    images, labels = open_images("photos").load([1], 32)
    observation, _ = client_update(victim, spec, images, labels, part, LocalTraining(steps=4, learning_rate=0.05))
    trained = {name for name, _ in victim.named_parameters() if name in observation.update}
    assert 0 < len(trained) == len(observation.update) < len(list(victim.parameters()))
    assert explained_share(observation, simulate(observation), images, labels) > 0.999


def test_labels_that_an_update_does_not_show_are_asked_for() -> None:
    victim, spec = victim_of("photos", MODEL)
    observation, _ = client_update(victim, spec, *open_images("photos").load([1], 32), r"blocks\.0\.mlp")
    common = {"attacks": ["adjoint-matching:steps=2"], "self_test": False}
    unknown = privbench.audit(MODEL, dict(observation.update), **common)  # type: ignore[arg-type]
    assert (unknown.verdict, unknown.labels) == ("no attack applies", ())
    assert "give them (--labels)" in unknown.findings[0].reason
    known = privbench.audit(MODEL, dict(observation.update), labels=[3], **common)  # type: ignore[arg-type]
    assert known.findings[0].outcome == "ran"
