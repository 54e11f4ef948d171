"""Readers of updates: files of every format hold the same, what is something else is one line, and names become timm's."""

import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from privbench.core import UserError
from privbench.updates import in_names_of_timm, named_by_order, read_tensors

TABLE = {"head.weight": torch.arange(6.0).reshape(2, 3), "head.bias": torch.tensor([0.5, -0.5])}


def _written(path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file(TABLE, str(path))
    elif path.suffix == ".npz":
        np.savez(path, **{name: value.numpy() for name, value in TABLE.items()})  # type: ignore[arg-type]
    else:
        torch.save({"epoch": 3, "state_dict": TABLE} if path.stem == "inside" else TABLE, path)
    return path


@pytest.mark.parametrize("name", ["u.safetensors", "u.npz", "u.pt", "inside.pth", "u.bin"])
def test_every_format_holds_the_same(tmp_path: Path, name: str) -> None:
    found = read_tensors(_written(tmp_path / name))
    assert isinstance(found, dict)
    assert found.keys() == TABLE.keys()
    assert all(torch.equal(found[key], value) for key, value in TABLE.items())


def test_lists_of_arrays_are_named_by_order(tmp_path: Path) -> None:
    arrays = [value.numpy() for value in TABLE.values()]
    np.savez(tmp_path / "flower.npz", *arrays)
    buffers = []
    for array in arrays:
        buffer = io.BytesIO()
        np.save(buffer, array)
        buffers.append(buffer.getvalue())
    parameters = SimpleNamespace(tensors=buffers, tensor_type="numpy.ndarray")
    fit = SimpleNamespace(parameters=parameters, num_examples=3)
    for source in (tmp_path / "flower.npz", arrays, parameters, fit):
        found = read_tensors(source)
        assert isinstance(found, list)
        named = named_by_order(found, {name: value.shape for name, value in TABLE.items()})
        assert all(torch.equal(named[key], value) for key, value in TABLE.items())
    found = list(TABLE.values())
    with pytest.raises(UserError, match="a list of 2 arrays for a model with 3"):
        named_by_order(found, {**{name: value.shape for name, value in TABLE.items()}, "x": torch.Size([1])})
    with pytest.raises(UserError, match=r"array 0 of the list has shape \(2, 3\), and head\.bias"):
        named_by_order(found, {name: TABLE[name].shape for name in reversed(TABLE)})


def test_big_endian_and_half_precision_arrays_are_read() -> None:
    found = read_tensors({"a": np.array([1.0, 2.0], dtype=">f4"), "b": np.array([1.5], dtype=np.float16)})
    assert isinstance(found, dict)
    assert (found["a"].tolist(), found["b"].dtype) == ([1.0, 2.0], torch.float16)


@pytest.mark.parametrize("name", ["u.safetensors", "u.npz", "u.pt"])
@pytest.mark.parametrize("content", [b"", b"no tensors", b"PK\x03\x04" + bytes(40)])
def test_what_is_something_else_is_refused_in_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=r"accepted|safetensors") as caught:
        read_tensors(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    torch.save({"model": torch.nn.Linear(2, 2)}, tmp_path / "whole.pt")
    with pytest.raises(UserError, match="save the state_dict alone"):
        read_tensors(tmp_path / "whole.pt")
    with pytest.raises(UserError, match="there is no file"):
        read_tensors(tmp_path / "absent.pt")
    with pytest.raises(UserError, match="holds no numbers"):
        read_tensors({"a": np.array(["text"])})


def test_torchvisions_vit_has_timms_names_and_computes_the_same() -> None:
    theirs = torchvision.models.vision_transformer.VisionTransformer(32, 8, 2, 4, 32, 64, num_classes=5).eval()
    torch.nn.init.normal_(theirs.heads.head.weight)
    ours = timm.models.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4, mlp_ratio=2, num_classes=5
    ).eval()
    ours.load_state_dict(in_names_of_timm({f"module.{name}": value for name, value in theirs.state_dict().items()}))
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(ours(image), theirs(image), atol=1e-5)


HUGGING_FACE = (
    "vit.embeddings.cls_token",
    "vit.embeddings.position_embeddings",
    "vit.embeddings.patch_embeddings.projection.weight",
    "vit.encoder.layer.0.attention.attention.query.weight",
    "vit.encoder.layer.0.attention.attention.key.weight",
    "vit.encoder.layer.0.attention.attention.value.weight",
    "vit.encoder.layer.0.attention.output.dense.weight",
    "vit.encoder.layer.0.intermediate.dense.weight",
    "vit.encoder.layer.0.output.dense.weight",
    "vit.encoder.layer.0.layernorm_before.weight",
    "vit.encoder.layer.0.layernorm_after.weight",
    "vit.layernorm.weight",
    "classifier.weight",
    "vit.pooler.dense.weight",
)
CLIP = (
    "vision_model.embeddings.class_embedding",
    "vision_model.embeddings.patch_embedding.weight",
    "vision_model.embeddings.position_embedding.weight",
    "vision_model.pre_layrnorm.weight",
    "vision_model.encoder.layers.0.self_attn.q_proj.weight",
    "vision_model.encoder.layers.0.self_attn.k_proj.weight",
    "vision_model.encoder.layers.0.self_attn.v_proj.weight",
    "vision_model.encoder.layers.0.self_attn.out_proj.weight",
    "vision_model.encoder.layers.0.layer_norm1.weight",
    "vision_model.encoder.layers.0.mlp.fc1.weight",
    "vision_model.post_layernorm.weight",
)
DINOV2 = (
    "embeddings.mask_token",
    "embeddings.patch_embeddings.projection.bias",
    "encoder.layer.0.norm1.weight",
    "encoder.layer.0.attention.attention.query.bias",
    "encoder.layer.0.attention.attention.key.bias",
    "encoder.layer.0.attention.attention.value.bias",
    "encoder.layer.0.layer_scale1.lambda1",
    "encoder.layer.0.mlp.fc2.weight",
    "layernorm.bias",
)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (
            HUGGING_FACE,
            {"cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "blocks.0.attn.proj.weight"}
            | {"blocks.0.mlp.fc1.weight", "blocks.0.mlp.fc2.weight", "blocks.0.norm1.weight", "blocks.0.norm2.weight"}
            | {"norm.weight", "head.weight"},
        ),
        (
            CLIP,
            {"cls_token", "patch_embed.proj.weight", "pos_embed", "norm_pre.weight", "blocks.0.attn.qkv.weight"}
            | {"blocks.0.attn.proj.weight", "blocks.0.norm1.weight", "blocks.0.mlp.fc1.weight", "norm.weight"},
        ),
        (
            DINOV2,
            {"patch_embed.proj.bias", "blocks.0.norm1.weight", "blocks.0.attn.qkv.bias", "blocks.0.ls1.gamma"}
            | {"blocks.0.mlp.fc2.weight", "norm.bias"},
        ),
    ],
)
def test_hugging_faces_towers_have_timms_names(names: tuple[str, ...], expected: set[str]) -> None:
    found = in_names_of_timm({name: torch.full((2, 2), float(number)) for number, name in enumerate(names)})
    assert set(found) == expected
    joint = next(value for name, value in found.items() if ".qkv." in name)
    assert joint.shape == (6, 2)
    assert joint[:, 0].tolist() == sorted(joint[:, 0].tolist())


def test_an_incomplete_query_key_value_is_left_out() -> None:
    assert in_names_of_timm({name: torch.ones(2, 2) for name in DINOV2 if "value" not in name}).keys() == (
        in_names_of_timm({name: torch.ones(2, 2) for name in DINOV2}).keys() - {"blocks.0.attn.qkv.bias"}
    )


def test_the_installed_transformers_vit_computes_the_same_under_timms_names() -> None:
    transformers = pytest.importorskip("transformers", reason="it comes with the extra 'peft'")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
        image_size=32,
        patch_size=8,
        num_labels=5,
        layer_norm_eps=1e-6,
    )
    theirs = transformers.ViTForImageClassification(config).eval()
    ours = timm.models.VisionTransformer(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=5).eval()
    ours.load_state_dict(in_names_of_timm(theirs.state_dict()))
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(theirs(images).logits, ours(images), atol=1e-5)
