"""The closed form gives the image back to many decibels where it applies, and says what it cannot get where it does not."""

import time

import pytest
import torch

from privbench.attacks.closed_form import ClosedForm
from privbench.closed_form.map_estimate import likely_patches
from privbench.core import UserError
from privbench.scoring.patches import best_placement
from tests.attacks.closed_forms import attacked, patch_errors, psnr, update


@pytest.mark.parametrize("photo", [0, 1])
def test_the_embedded_victim_gives_the_photo_away(photo: int) -> None:
    observation, secret = update(photo=photo)
    result = attacked(ClosedForm(), observation)
    assert psnr(result.images, secret.images) > 90
    assert result.flags == ()
    assert result.steps == 0


def test_a_random_vit_small_at_224_does_too_within_seconds() -> None:
    observation, secret = update(model="vit_small_patch16_224", weights="random")
    began = time.process_time()
    result = attacked(ClosedForm(), observation)
    assert time.process_time() - began < 20
    assert psnr(result.images, secret.images) > 60


def test_labels_and_scale_of_the_gradient_do_not_matter() -> None:
    observation, secret = update()
    clipped = observation.with_gradients({name: value * 1e-3 for name, value in observation.gradients.items()})
    result = attacked(ClosedForm(), clipped)
    assert psnr(result.images, secret.images) > 90
    assert result.labels is None


def test_a_shuffle_hides_the_order_alone_and_the_oracle_puts_it_right() -> None:
    observation, secret = update("naive-shuffle")
    shuffled = attacked(ClosedForm(), observation).images
    assert psnr(shuffled, secret.images) < 20
    assert psnr(best_placement(shuffled, secret.images, 4), secret.images) > 90
    told, secret = update("naive-shuffle", adversary="oracle")
    assert psnr(attacked(ClosedForm(), told).images, secret.images) > 90


def test_masked_patches_come_back_as_one_and_spoil_the_others_and_the_flag_says_so() -> None:
    observation, secret = update("mjp:mask_ratio=0.1")
    result = attacked(ClosedForm(), observation)
    assert result.flags == ("masked-patches-not-separated",)
    mask = secret.choices["mjp.mask"]
    assert mask.any()
    assert 8 < psnr(result.images, secret.images) < 40
    errors = patch_errors(result.images, secret.images)
    assert errors[~mask].median() < errors[mask].median()
    assert result.losses["misfit"] > 1e-3


@pytest.mark.parametrize("adversary", ["aware", pytest.param("oracle", marks=pytest.mark.nightly)])
def test_who_knows_of_the_mask_gets_the_other_patches_clean_and_fills_the_masked_ones_in(adversary: str) -> None:
    found = {}
    for name in ("unaware", adversary):
        observation, secret = update("mjp:mask_ratio=0.27", adversary=name)
        found[name] = attacked(ClosedForm(), observation)
    mask = secret.choices["mjp.mask"]
    errors = {name: patch_errors(result.images, secret.images) for name, result in found.items()}
    assert errors[adversary][~mask].median() < 0.6 * errors["unaware"][~mask].median()
    assert psnr(found[adversary].images, secret.images) > psnr(found["unaware"].images, secret.images) + 2
    assert "masked-patches-filled-in" in found[adversary].flags
    if adversary == "aware":
        inferred = found[adversary].inferred.mask
        assert inferred is not None
        assert torch.equal(inferred, mask)


def test_a_single_masked_patch_is_no_riddle(monkeypatch: pytest.MonkeyPatch) -> None:
    def one(rows: int, columns: int, *_: object, **__: object) -> torch.Tensor:
        return torch.arange(rows * columns) == 27

    monkeypatch.setattr("privbench.defenses.mjp.block_mask", one)
    observation, secret = update("mjp:mask_ratio=0.03", adversary="aware")
    assert secret.choices["mjp.mask"].sum() == 1
    assert psnr(attacked(ClosedForm(), observation).images, secret.images) > 90


@pytest.mark.nightly
@pytest.mark.parametrize(("ratio", "flag"), [(0.1, "masked-patches-filled-in"), (0.03, "masked-patches-not-separated")])
def test_patches_of_16_are_cleaned_too_where_spare_equations_tell_enough_of_the_masked_ones(ratio: float, flag: str) -> None:
    found = {}
    for adversary in ("unaware", "aware"):
        observation, secret = update(
            f"mjp:mask_ratio={ratio}", adversary=adversary, model="vit_tiny_patch16_224", weights="random"
        )
        found[adversary] = attacked(ClosedForm(), observation)
    assert flag in found["aware"].flags
    gain = psnr(found["aware"].images, secret.images) - psnr(found["unaware"].images, secret.images)
    assert gain > 4 if ratio > 0.03 else gain == 0


def test_with_an_empty_mask_the_victim_of_mjp_is_as_open_as_any() -> None:
    observation, secret = update("mjp:mask_ratio=0")
    result = attacked(ClosedForm(), observation)
    assert psnr(result.images, secret.images) > 90
    assert result.flags == ()


@pytest.mark.parametrize(("defense", "batch", "words"), [("no-pe", 1, "position embedding"), ("none", 2, "one image")])
def test_what_it_does_not_apply_to_is_refused_in_a_line(defense: str, batch: int, words: str) -> None:
    observation, _ = update(defense, batch=batch)
    with pytest.raises(UserError, match=words) as caught:
        attacked(ClosedForm(), observation)
    assert "\n" not in str(caught.value)


def test_a_convolutional_network_is_refused() -> None:
    observation, _ = update(model="cnn_mini_32", weights="random")
    with pytest.raises(UserError, match="not a vision transformer"):
        attacked(ClosedForm(), observation)


def test_a_model_with_more_patches_than_width_is_flagged() -> None:
    observation, secret = update(model="vit_tiny_patch16_224", weights="random")
    result = attacked(ClosedForm(), observation)
    assert "more-patches-than-width" in result.flags
    assert psnr(result.images, secret.images) > 36


@pytest.mark.parametrize(
    ("defense", "gain"),
    [("gradient-noise:std=1e-3", 2.0), ("quantization:bits=8", 2.0), ("pruning:p=0.1", 2.0), ("pruning:p=0.5", 5.0)],
)
def test_who_knows_that_entries_are_not_exact_weighs_the_noise_against_smoothness(defense: str, gain: float) -> None:
    found = {}
    for adversary in ("unaware", "aware"):
        observation, secret = update(defense, photo=1, adversary=adversary)
        found[adversary] = psnr(attacked(ClosedForm(), observation).images, secret.images)
    assert found["aware"] > found["unaware"] + gain


def test_patches_in_an_unknown_order_are_not_expected_to_fit_their_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def watched(gradients: torch.Tensor, target: torch.Tensor, size: int, *, whole: bool) -> torch.Tensor:
        asked.append(whole)
        return likely_patches(gradients, target, size, whole=whole)

    monkeypatch.setattr("privbench.attacks.closed_form.likely_patches", watched)
    for defense, adversary in (("none", "aware"), ("naive-shuffle", "aware"), ("naive-shuffle", "oracle"), ("mjp", "aware")):
        attacked(ClosedForm(), update(f"{defense}+quantization:bits=8", adversary=adversary)[0])
    # Under MJP only masked patches may stand elsewhere, and those are hidden.
    assert asked == [True, False, False, True]
