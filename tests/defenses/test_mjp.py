"""MJP against its published description: the mask's statistics, what is permuted, the unknown row, DAL and its schedule."""

import itertools

import pytest
import torch

from privbench.client import observe
from privbench.core import ModelInput, ThreatModel, UserError, build_defense, resolve_defense
from privbench.core.patches import to_patches
from privbench.defenses.block_mask import block_mask, can_mask, scaled_area
from privbench.defenses.mjp import DenseAbsoluteLocalisation, MaskedJigsawPuzzle, masked_rows
from privbench.models import Victim, build_model, default_spec
from tests.conformance import client_update


def _victim() -> Victim:
    victim = build_model(default_spec("vit_mini_patch4_32")).eval()
    victim.add_unknown_position()
    return victim


@pytest.mark.parametrize(
    ("ratio", "mean", "target"),
    # Realised means on the 14x14 grid, measured on the published generator.
    [(0.03, 3.9, 5), (0.10, 18.6, 19), (0.27, 51.8, 52), (0.50, 97.8, 98), (0.90, 173.0, 176), (1.0, 182.0, 196)],
)
def test_mask_sizes_agree_with_the_published_generator(ratio: float, mean: float, target: int) -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = [int(block_mask(14, 14, ratio, generator, area=(8, 75)).sum()) for _ in range(300)]
    assert max(sizes) <= target == int(ratio * 196)
    assert sum(sizes) / 300 == pytest.approx(mean, abs=max(0.35, 0.01 * target))


def test_small_masks_are_sometimes_empty_as_published() -> None:
    generator = torch.Generator().manual_seed(1)
    empty = sum(not block_mask(14, 14, 0.03, generator, area=(8, 75)).any() for _ in range(1500)) / 1500
    assert empty == pytest.approx(0.145, abs=0.03)


def test_a_mask_is_called_possible_exactly_where_the_generator_draws_one() -> None:
    settings = itertools.product(
        [(1, 1), (1, 8), (2, 2), (4, 4), (8, 8)], [0.01, 0.03, 0.1, 0.5, 1.0], [(1, 1), (1, 75), (8, 8), (8, 75), (40, 75)]
    )
    answers = set()
    for (rows, columns), ratio, area in settings:
        generator = torch.Generator().manual_seed(3)
        drawn = any(bool(block_mask(rows, columns, ratio, generator, area=area).any()) for _ in range(200))
        possible = can_mask(rows, columns, ratio, area=area)
        # Of what is possible some is rare: a small grid and a block that nearly never is small enough.
        assert possible or not drawn
        assert drawn or not possible or (rows, area[1]) == (2, 75)
        answers.add(possible)
    assert answers == {True, False}


@pytest.mark.parametrize("text", ["mask_ratio=0.01", "mask_ratio=1,smallest_block=64"])
def test_masks_that_can_never_be_are_refused_for_the_model(text: str) -> None:
    victim = build_model(default_spec("vit_mini_patch4_32"))
    with pytest.raises(
        UserError, match=r"mjp never masks a patch of the 8x8 grid with mask_ratio=.*raise mask_ratio"
    ) as caught:
        build_defense(resolve_defense(f"mjp:{text}")).prepare_model(victim)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["mask_ratio=0", "mask_ratio=0.03", "mask_ratio=0.02,smallest_block=1", "mask_ratio=1"])
def test_masks_that_are_rare_or_not_wanted_are_accepted(text: str) -> None:
    victim = build_model(default_spec("vit_mini_patch4_32"))
    build_defense(resolve_defense(f"mjp:{text}")).prepare_model(victim)
    assert victim.has_unknown_position


def test_blocks_out_of_order_are_refused() -> None:
    with pytest.raises(UserError, match=r"^defense mjp: smallest_block=9 is larger than largest_block=8; accepted: 1 to 8$"):
        resolve_defense("mjp:smallest_block=9,largest_block=8")


@pytest.mark.parametrize("ratio", [0.03, 0.1, 0.9])
def test_blocks_scale_with_the_grid_so_that_masks_are_not_empty(ratio: float) -> None:
    assert scaled_area(14, 14, 0.1, None, None) == (8, 75)
    assert scaled_area(8, 8, 0.1, None, None) == (3, 24)
    assert scaled_area(8, 8, 0.1, 8, 75) == (8, 75)
    assert scaled_area(8, 8, 0.03, None, None) == (1, 24)
    generator = torch.Generator().manual_seed(5)
    defense, victim = MaskedJigsawPuzzle(mask_ratio=ratio), _victim()
    batch = ModelInput(torch.rand(1, 3, 32, 32, generator=generator))
    masks = [defense.prepare_batch(victim, batch, generator).choices["mjp.mask"] for _ in range(300)]
    assert all(mask.any() for mask in masks)
    published = MaskedJigsawPuzzle(mask_ratio=ratio, smallest_block=8, largest_block=75)
    empty = sum(not published.prepare_batch(victim, batch, generator).choices["mjp.mask"].any() for _ in range(300))
    assert (empty > 100) == (ratio == 0.03)


def test_training_starts_from_a_table_of_unit_variance_that_is_decayed() -> None:
    tables = {}
    for kind, text in (("published", "mjp"), ("timm", "mjp:position_table=timm")):
        victim, defense = _victim(), build_defense(resolve_defense(text))
        defense.initialise_training(victim)
        tables[kind] = dict(victim.named_parameters())["network.pos_embed"].detach()
        assert defense.decayed_weights() == (("network.pos_embed",) if kind == "published" else ())
    assert float(tables["published"].std()) == pytest.approx(1, abs=0.03)
    # The unknown row too.
    assert float(tables["published"][0, -1].std()) == pytest.approx(1, abs=0.2)
    assert float(tables["timm"].std()) < 0.05
    assert not tables["timm"][0, -1].any()


def test_masks_come_in_blocks() -> None:
    generator = torch.Generator().manual_seed(2)
    neighbours = []
    for _ in range(50):
        mask = block_mask(14, 14, 0.27, generator, area=(8, 75)).reshape(14, 14)
        neighbours.append(float((mask[:, 1:] & mask[:, :-1]).sum() / mask.sum()))
    assert sum(neighbours) / 50 > 0.6  # a scattered mask of this ratio has about 0.27


def test_only_masked_patches_move_and_one_order_serves_the_batch(generator: torch.Generator) -> None:
    victim = _victim()
    images = torch.rand(3, 3, 32, 32, generator=generator)
    protected = MaskedJigsawPuzzle(mask_ratio=0.5).prepare_batch(victim, ModelInput(images), generator)
    mask, order = protected.choices["mjp.mask"], protected.choices["mjp.order"]
    before, after = to_patches(images, 4), to_patches(protected.model_input.images, 4)
    assert torch.equal(after[:, ~mask], before[:, ~mask])
    assert torch.equal(after, before[:, order])
    assert sorted(order[mask].tolist()) == mask.nonzero().flatten().tolist()
    assert not torch.equal(after[:, mask], before[:, mask])
    assert protected.model_input.unknown_positions is not None
    assert torch.equal(protected.model_input.unknown_positions, mask)


def test_masked_positions_share_the_unknown_row(generator: torch.Generator) -> None:
    victim = _victim()
    with torch.no_grad():
        dict(victim.named_parameters())["network.pos_embed"][:, -1] = torch.randn(192, generator=generator)
    images = torch.rand(1, 3, 32, 32, generator=generator)
    mask = torch.zeros(64, dtype=torch.bool)
    mask[[3, 40]] = True
    patches = to_patches(images, 4).clone()
    patches[:, [3, 40]] = patches[:, [40, 3]]
    from privbench.core.patches import from_patches

    swapped = from_patches(patches, 32, 32)
    with torch.no_grad():
        assert torch.allclose(victim(images, mask), victim(swapped, mask), atol=1e-5)
        assert not torch.allclose(victim(images), victim(swapped), atol=1e-5)


def test_the_aware_attacker_reads_the_mask_from_the_position_gradient(generator: torch.Generator) -> None:
    specs = resolve_defense("mjp:mask_ratio=0.3")
    defense = build_defense(specs)
    victim = _victim()
    observation, secret = observe(
        victim,
        default_spec("vit_mini_patch4_32"),
        defense,
        torch.rand(1, 3, 32, 32, generator=generator),
        torch.tensor([2]),
        declared=specs,
        threat_model=ThreatModel(adversary="aware"),
        generator=generator,
    )
    assert not observation.disclosed
    assert torch.equal(masked_rows(victim, observation), secret.choices["mjp.mask"])


def test_training_masks_half_of_the_batches_after_the_warm_up(generator: torch.Generator) -> None:
    victim, defense = _victim(), MaskedJigsawPuzzle(mask_ratio=0.5)
    batch = ModelInput(torch.rand(1, 3, 32, 32, generator=generator))

    def share(progress: float) -> float:
        drawn = [defense.training_batch(victim, batch, generator, progress) for _ in range(200)]
        return sum(one.model_input.unknown_positions is not None for one in drawn) / 200

    assert share(0.05) == 0.0
    assert share(0.5) == pytest.approx(0.5, abs=0.12)


@pytest.mark.parametrize(("coordinates", "last"), [(None, 1), ("normalised", 7)])
def test_dal_is_the_mean_distance_of_unmasked_rows_and_acts_on_the_table_alone(
    coordinates: str | None, last: int, generator: torch.Generator
) -> None:
    victim = _victim()
    settings = {"dal_weight": 0.5, "dal_regressor": "linear", "dal_coordinates": coordinates}
    loss = MaskedJigsawPuzzle.model_validate(settings).extra_loss(victim)
    assert isinstance(loss, DenseAbsoluteLocalisation)
    mask = torch.rand(64, generator=generator) < 0.3
    value = loss(victim, ModelInput(torch.zeros(1, 3, 32, 32), mask), 1.0)
    table = dict(victim.named_parameters())["network.pos_embed"][0]
    by_hand = []
    for position in range(64):
        if not mask[position]:
            row, column = divmod(position, 8)
            read = loss.regressor(table[1 + position])
            by_hand.append((abs(float(read[0].detach()) - row / last) + abs(float(read[1].detach()) - column / last)) / 2)
    assert float(value.detach()) == pytest.approx(0.5 * 0.5 * sum(by_hand) / len(by_hand), rel=1e-6)
    gradients = torch.autograd.grad(value, list(victim.parameters()), allow_unused=True)
    touched = {name for (name, _), g in zip(victim.named_parameters(), gradients, strict=True) if g is not None}
    assert touched == {"network.pos_embed"}


def test_dal_weight_rises_over_a_fifteenth_then_falls_to_half() -> None:
    loss = DenseAbsoluteLocalisation(_victim(), 0.01, "nonlinear")
    assert loss.scheduled_weight(0.0) == 0.0
    assert loss.scheduled_weight(1 / 30) == pytest.approx(0.005)
    assert loss.scheduled_weight(1 / 15) == pytest.approx(0.01)
    assert loss.scheduled_weight(1.0) == pytest.approx(0.005)


@pytest.mark.parametrize("defense", ["mjp", "no-pe", "naive-shuffle"])
def test_defenses_of_transformers_refuse_a_cnn_in_one_line(defense: str) -> None:
    cnn = build_model(default_spec("cnn_mini_32"))
    with pytest.raises(UserError, match=rf"defense {defense} needs a vision transformer"):
        build_defense(resolve_defense(defense)).prepare_model(cnn)


def test_the_ablations_differ_in_the_rows_that_masked_patches_get_and_in_nothing_else() -> None:
    made = {kind: client_update(f"mjp:mask_ratio=0.5{extra}") for kind, extra in ABLATIONS.items()}
    mask = made["published"].secret.choices["mjp.mask"]
    assert all(torch.equal(one.secret.fed, made["published"].secret.fed) for one in made.values())
    gradients = {kind: one.observation.gradients for kind, one in made.items()}
    rows = {kind: found["network.pos_embed"][0, 1:65].norm(dim=1) for kind, found in gradients.items()}
    assert torch.equal(rows["published"] == 0, mask)
    assert torch.equal(rows["indexed"] == 0, mask)
    assert (rows["own"] > 0).all()
    assert made["own"].observation.gradients["network.pos_embed"].shape[1] == 65
    # What the mask hides of positions, the index embedding gives away again: every token's own gradient.
    assert (gradients["indexed"]["network.index_embed"][0, 1:].norm(dim=1) > 0).all()


def test_only_the_published_form_promises_to_hide_places() -> None:
    said = {kind: build_defense(resolve_defense(f"mjp:mask_ratio=0.5{extra}")).guarantee() for kind, extra in ABLATIONS.items()}
    assert said["published"].startswith("Hides the places of the masked patches")
    assert all("Hides" not in said[kind] and "no promise" in said[kind] for kind in ("own", "indexed"))


ABLATIONS = {"published": "", "own": ",positions=own", "indexed": ",positions=indexed"}
