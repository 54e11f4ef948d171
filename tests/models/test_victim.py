"""The [0, 1] contract, second derivatives, position variants, and weights that fit or are refused by name."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from privbench.core import UserError, VictimSpec, build_defense, resolve_defense
from privbench.models import (
    Victim,
    build_model,
    default_spec,
    load_prior,
    load_state,
    load_victim,
    read_card,
    resolve_victim,
    victim_card,
)

pytestmark = pytest.mark.integration

NONE = build_defense(resolve_defense("none"))


def test_normalisation_is_inside() -> None:
    victim = build_model(default_spec("vit_mini_patch4_32")).eval()
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mean, std = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2470, 0.2435, 0.2616])
    by_hand = victim.network((images - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1))
    assert torch.equal(victim(images), by_hand)


@pytest.mark.parametrize("name", ["vit_mini_patch4_32", "cnn_mini_32", "vit_tiny_patch16_224", "resnet10t"])
def test_every_model_has_second_derivatives(name: str) -> None:
    spec = default_spec(name, num_classes=10, image_size=32)
    victim = build_model(spec).eval()
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = torch.nn.functional.cross_entropy(victim(images), torch.tensor([1]))
    gradients = torch.autograd.grad(loss, list(victim.parameters()), create_graph=True)
    (second,) = torch.autograd.grad(torch.stack([g.square().sum() for g in gradients]).sum(), [images])
    assert torch.isfinite(second).all()
    assert second.abs().sum() > 0


def test_timm_models_bring_their_own_size_and_normalisation() -> None:
    spec = default_spec("deit_tiny_patch16_224")
    assert (spec.image_size, spec.num_classes) == (224, 1000)
    victim = build_model(spec)
    assert victim.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert victim.grid == (14, 14)
    assert victim.parts().prefix_tokens == 1


def test_unknown_model_is_one_line_with_a_near_miss() -> None:
    with pytest.raises(UserError, match=r"unknown model 'vit_tinny_patch16_224'; did you mean vit_tiny_patch16_224") as caught:
        default_spec("vit_tinny_patch16_224")
    assert len(str(caught.value)) < 400


def test_unknown_positions_need_the_row() -> None:
    victim = build_model(default_spec("vit_mini_patch4_32")).eval()
    with pytest.raises(UserError, match="no unknown position row"):
        victim(torch.zeros(1, 3, 32, 32), torch.zeros(64, dtype=torch.bool))


def test_the_unknown_row_changes_nothing_until_it_is_used() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        victim = build_model(default_spec("vit_mini_patch4_32")).eval()
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    before = victim(images)
    victim.add_unknown_position()
    assert dict(victim.named_parameters())["network.pos_embed"].shape == (1, 66, 192)
    assert torch.equal(victim(images), before)
    everywhere = torch.ones(64, dtype=torch.bool)
    assert not torch.equal(victim(images, everywhere), before)


def test_without_positions_the_order_of_patches_does_not_matter() -> None:
    from privbench.core.patches import rearrange

    victim = build_model(default_spec("vit_mini_patch4_32")).eval()
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    moved = rearrange(images, torch.randperm(64, generator=torch.Generator().manual_seed(2)), 4)
    assert not torch.allclose(victim(images), victim(moved), atol=1e-5)
    victim.remove_positions()
    assert torch.allclose(victim(images), victim(moved), atol=1e-5)
    assert victim.parts().position is None


def test_random_weights_follow_the_generator_and_leave_the_global_one_alone() -> None:
    spec = resolve_victim("vit_mini_patch4_32", "random", NONE)
    before = torch.get_rng_state()
    first, again, other = (
        load_victim(spec, NONE, generator=torch.Generator().manual_seed(seed)).state_dict() for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["network.head.weight"], other["network.head.weight"]) or not torch.equal(
        first["network.patch_embed.proj.weight"], other["network.patch_embed.proj.weight"]
    )


def test_weights_of_another_shape_are_refused_by_name(tmp_path: Path) -> None:
    state = build_model(default_spec("vit_mini_patch4_32", num_classes=7)).state_dict()
    save_file(state, str(tmp_path / "w.safetensors"))
    spec = resolve_victim("vit_mini_patch4_32", str(tmp_path / "w.safetensors"), NONE)
    with pytest.raises(UserError, match=r"do not fit vit_mini_patch4_32: network\.head\.(weight|bias) is \(7"):
        load_victim(spec, NONE, generator=torch.Generator())


def test_plain_timm_files_load_and_a_missing_tensor_is_named(tmp_path: Path) -> None:
    network = build_model(default_spec("vit_mini_patch4_32")).network
    torch.save({"state_dict": network.state_dict()}, tmp_path / "w.pth")
    spec = resolve_victim("vit_mini_patch4_32", str(tmp_path / "w.pth"), NONE)
    victim = load_victim(spec, NONE, generator=torch.Generator())
    assert torch.equal(victim.state_dict()["network.head.weight"], network.state_dict()["head.weight"])
    partial = {name: value for name, value in network.state_dict().items() if name != "head.bias"}
    torch.save(partial, tmp_path / "p.pth")
    spec = resolve_victim("vit_mini_patch4_32", str(tmp_path / "p.pth"), NONE)
    with pytest.raises(UserError, match=r"missing network\.head\.bias"):
        load_victim(spec, NONE, generator=torch.Generator())


@pytest.mark.parametrize("defense", ["mjp", "no-pe", "naive-shuffle"])
def test_weights_of_the_undefended_model_are_changed_by_the_defense_and_say_so(tmp_path: Path, defense: str) -> None:
    network = build_model(default_spec("vit_mini_patch4_32")).network
    torch.save(network.state_dict(), tmp_path / "w.pth")
    built = build_defense(resolve_defense(defense))
    spec = resolve_victim("vit_mini_patch4_32", str(tmp_path / "w.pth"), built)
    victim = load_victim(spec, built, generator=torch.Generator())
    state = victim.state_dict()
    assert torch.equal(state["network.head.weight"], network.state_dict()["head.weight"])
    assert victim.changed_after_training == (defense != "naive-shuffle")
    if defense == "no-pe":
        assert victim.parts().position is None
        return
    rows = len(network.state_dict()["pos_embed"][0])
    assert torch.equal(state["network.pos_embed"][:, :rows], network.state_dict()["pos_embed"])
    assert state["network.pos_embed"].shape[1] == rows + (defense == "mjp")


@pytest.mark.parametrize("defense", ["mjp", "no-pe"])
def test_weights_of_the_changed_model_are_loaded_as_they_are(defense: str) -> None:
    built = build_defense(resolve_defense(defense))
    victim = load_victim(resolve_victim("vit_mini_patch4_32", "embedded", built), built, generator=torch.Generator())
    assert not victim.changed_after_training


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("evil"),))  # type: ignore[return-value]


@pytest.mark.parametrize("content", ["pickle", "text", "table", "absent"])
def test_a_file_that_is_no_table_of_tensors_is_refused(tmp_path: Path, content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "w.pth"
    if content == "pickle":
        torch.save({"w": Evil()}, path)
    elif content == "text":
        path.write_text("hello")
    elif content == "table":
        torch.save({"epoch": 3}, path)
    with pytest.raises(UserError) as caught:
        load_state(path)
    assert "w.pth" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "evil").exists()


def test_weights_that_changed_since_the_case_was_made_are_refused(tmp_path: Path) -> None:
    network = build_model(default_spec("vit_mini_patch4_32")).network
    torch.save(network.state_dict(), tmp_path / "w.pth")
    spec = resolve_victim("vit_mini_patch4_32", str(tmp_path / "w.pth"), NONE)
    wrong = VictimSpec(model=spec.model, weights=spec.weights, weights_sha256="0" * 64)
    with pytest.raises(UserError, match="not those of the case"):
        load_victim(wrong, NONE, generator=torch.Generator())


EMBEDDED = [
    ("vit_mini_patch4_32", "none"),
    ("vit_mini_patch4_32", "no-pe"),
    ("vit_mini_patch4_32", "naive-shuffle"),
    ("vit_mini_patch4_32", "mjp"),
    ("cnn_mini_32", "none"),
]


@pytest.mark.parametrize(("model", "defense"), EMBEDDED)
def test_embedded_weights_load_and_their_card_says_how_they_came_to_be(model: str, defense: str) -> None:
    built = build_defense(resolve_defense(defense))
    spec = resolve_victim(model, "embedded", built)
    victim = load_victim(spec, built, generator=torch.Generator())
    card = read_card(model, defense)
    assert isinstance(victim, Victim)
    assert card is not None
    assert card.sha256 == spec.weights_sha256
    assert card.test_images == 10_000
    assert card.command.startswith("privbench train")
    assert card.parameters == sum(parameter.numel() for parameter in victim.parameters())
    assert victim_card(spec, built) == card


def test_the_position_victim_reaches_its_bar() -> None:
    card = read_card("vit_mini_patch4_32", "none")
    assert card is not None
    assert card.accuracy >= 0.75


def test_the_victims_share_one_recipe() -> None:
    cards = [read_card(model, defense) for model, defense in EMBEDDED if model == "vit_mini_patch4_32"]
    assert len({(str(card.recipe), card.epochs, card.dataset) for card in cards if card is not None}) == 1


@pytest.mark.parametrize(
    ("model", "defense"), [EMBEDDED[0], *(pytest.param(*one, marks=pytest.mark.nightly) for one in EMBEDDED[1:])]
)
def test_the_cards_accuracy_is_that_of_the_shipped_weights(model: str, defense: str, shared_data: Path) -> None:
    from privbench.data import open_images
    from privbench.training import accuracy

    built = build_defense(resolve_defense(defense))
    victim = load_victim(resolve_victim(model, "embedded", built), built, generator=torch.Generator())
    images, labels = open_images(str(shared_data / "cifar10"), "test").as_tensors(32)
    card = read_card(model, defense)
    assert card is not None
    sample = accuracy(victim, images[:1500], labels[:1500])
    assert sample == pytest.approx(card.accuracy, abs=0.035)  # three standard errors of 1,500 images


def test_the_prior_is_frozen_and_knows_photographs_from_noise() -> None:
    from privbench.data import open_images
    from privbench.inversion import BatchNormStatistics

    prior = load_prior()
    photos, _ = open_images("photos").load(range(8), 32)
    noise = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    statistics = BatchNormStatistics(prior, prior.image_size)
    assert float(statistics(photos[None])) < 0.5 * float(statistics(noise[None]))
