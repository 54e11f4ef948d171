"""Reliability of confidence: closed forms, and a model that draws at inference is measured while it draws."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import KFold

from privbench.core import UserError, UtilityReport, build_defense, resolve_defense
from privbench.data import open_images
from privbench.models import load_victim, resolve_victim
from privbench.scoring import pairwise_position_error, position_errors
from privbench.training import MeasureOptions, measure_utility
from privbench.training.evaluate import images_at_once
from privbench.training.reliability import area_under_response_rate, detection_precision, rms_calibration_error


def test_a_classifier_that_is_right_as_often_as_it_says_has_no_calibration_error() -> None:
    correct = torch.arange(400) % 4 != 0
    assert rms_calibration_error(torch.full((400,), 0.75), correct, 100) == pytest.approx(0, abs=1e-12)
    assert rms_calibration_error(torch.full((400,), 1.0), correct, 100) == pytest.approx(0.25)


def test_the_calibration_error_is_the_root_of_the_weighted_squared_gaps_of_bins_of_equal_size() -> None:
    generator = torch.Generator().manual_seed(0)
    confidence, correct = torch.rand(257, generator=generator), torch.rand(257, generator=generator) < 0.6
    order = confidence.argsort()
    bins = [order[:100], order[100:]]
    gaps = [float(confidence[one].double().mean() - correct[one].double().mean()) for one in bins]
    expected = (100 / 257 * gaps[0] ** 2 + 157 / 257 * gaps[1] ** 2) ** 0.5
    assert rms_calibration_error(confidence, correct) == pytest.approx(expected, abs=1e-9)


def test_answering_what_is_surest_first_pays_where_confidence_tells_something() -> None:
    correct = torch.tensor([True, True, False, False])
    # Accuracies 1, 1, 2/3, 1/2 of the first one to four.
    assert area_under_response_rate(torch.tensor([0.9, 0.8, 0.2, 0.1]), correct) == pytest.approx((1 + 1 + 2 / 3 + 1 / 2) / 4)
    assert area_under_response_rate(torch.tensor([0.1, 0.2, 0.8, 0.9]), correct) == pytest.approx((0 + 0 + 1 / 3 + 1 / 2) / 4)


def test_images_of_no_class_are_found_by_low_confidence() -> None:
    assert detection_precision(torch.full((30,), 0.9), torch.full((10,), 0.4)) == 1
    assert detection_precision(torch.full((30,), 0.5), torch.full((10,), 0.5)) == pytest.approx(0.25)


def test_positions_in_the_sequence_and_pairs_are_regressions_in_five_folds() -> None:
    generator = np.random.default_rng(1)
    places = np.arange(64, dtype=float)
    rows = np.stack([places, np.sin(places)], axis=1) @ generator.normal(size=(2, 8))
    assert position_errors(rows, (8, 8), seed=0, along="sequence").max() < 1e-6
    found = pairwise_position_error(rows, (8, 8), seed=3, along="sequence")
    random = np.random.default_rng(3)
    first, second = random.permutation(64), random.permutation(64)
    differences, distances = rows[first] - rows[second], np.abs(first - second)
    errors = np.empty(64)
    for train, test in KFold(5, shuffle=True, random_state=3).split(differences):
        line = LinearRegression().fit(differences[train], distances[train])
        errors[test] = np.abs(line.predict(differences[test]) - distances[test])
    assert found == pytest.approx(errors.mean(), abs=1e-6)
    # The sign of a difference says nothing of a distance: the mean distance is the best guess, about 15 off.
    assert found > 10


def measured(
    defense: str, images: torch.Tensor, labels: torch.Tensor, *, draws: int, measures: frozenset[str]
) -> UtilityReport:
    specs = resolve_defense(defense)
    built = build_defense(specs)
    spec = resolve_victim("vit_mini_patch4_32", "embedded", built)
    victim = load_victim(spec, built, generator=torch.Generator().manual_seed(0))
    jigsaw = build_defense(resolve_defense("naive-shuffle"))
    options = MeasureOptions(
        jigsaw, "naive-shuffle", 4 / 255, measures=measures, draws=draws, unknown=255 - images, unknown_name="negatives"
    )
    return measure_utility(victim, spec, built, specs, images, labels, dataset="made", options=options)


@pytest.fixture(scope="module")
def photos() -> tuple[torch.Tensor, torch.Tensor]:
    """Four labelled crops of photographs."""
    images, _ = open_images("photos", "test").for_classes(10).as_tensors(32)
    return images[:4], torch.arange(4)


def test_layers_that_draw_at_inference_are_on_while_a_report_is_measured(photos: tuple[torch.Tensor, torch.Tensor]) -> None:
    wanted = frozenset({"attacks", "jigsaw"})
    off, on = (measured(text, *photos, draws=2, measures=wanted) for text in ("none", "stochastic-layers"))
    assert (off.draws, on.draws) == (1, 2)
    assert on.calibration_error != off.calibration_error
    assert off.calibration_interval is None
    assert on.calibration_interval is not None
    assert on.calibration_interval.low <= on.calibration_error <= on.calibration_interval.high
    # What is deployed draws by itself: the batch hook adds nothing.
    assert on.accuracy == on.defended_accuracy
    assert on.pgd_accuracy is not None
    assert on.fgsm_accuracy is not None
    assert on.pgd_accuracy.mean <= on.accuracy.mean
    assert on.aupr is not None
    assert (on.unknown, off.unknown) == ("negatives", "negatives")
    # Shares of two draws are no whole numbers of images.
    again = measured("stochastic-layers", *photos, draws=2, measures=wanted)
    assert again == on


def test_of_too_few_images_for_two_bins_there_is_no_rms_calibration_error(
    photos: tuple[torch.Tensor, torch.Tensor],
) -> None:
    images, labels = photos
    few, enough = (
        measured("none", images.repeat(n, 1, 1, 1), labels.repeat(n), draws=1, measures=frozenset()) for n in (49, 50)
    )
    assert few.rms_calibration_error is None
    assert few.unavailable["rms_calibration_error"] == "196 images make no two bins of 100; --limit 200"
    assert enough.rms_calibration_error is not None
    assert "rms_calibration_error" not in enough.unavailable
    assert few.calibration_error == pytest.approx(enough.calibration_error)


def test_the_mean_corruption_error_is_relative_to_a_reference(photos: tuple[torch.Tensor, torch.Tensor]) -> None:
    utility = measured("none", *photos, draws=1, measures=frozenset())
    half, whole = (
        utility.model_copy(update={"corrupted_accuracy": {"blur": (1 - error, 1.0), "jpeg": (1.0, 1 - error)}})
        for error in (0.2, 0.4)
    )
    assert whole.mean_corruption_error(whole) == pytest.approx(1)
    assert half.mean_corruption_error(whole) == pytest.approx(0.5)
    with pytest.raises(UserError, match="--measure corruptions"):
        utility.mean_corruption_error(whole)
    with pytest.raises(UserError, match="4 images of made against 9"):
        half.mean_corruption_error(whole.model_copy(update={"images": 9}))


def test_images_are_fed_in_smaller_batches_where_layers_draw_matrices_and_the_shares_stay_the_same(
    photos: tuple[torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    def at_once(text: str, draws: int = 1) -> int:
        built = build_defense(resolve_defense(text))
        spec = resolve_victim("vit_mini_patch4_32", "random", built)
        return images_at_once(load_victim(spec, built, generator=torch.Generator().manual_seed(0)), built, 250, draws)

    assert at_once("none") == at_once("stochastic-layers", 10) == 250
    # Three layers of 768 x 768 numbers an image, 64 million at once.
    assert at_once("stochastic-layers:form=full") == 64_000_000 // (3 * 768**2) == 36
    assert at_once("stochastic-layers:form=full", 10) == 3
    assert at_once("stochastic-layers:form=full", 1000) == 1
    whole = measured("none", *photos, draws=1, measures=frozenset())
    monkeypatch.setattr("privbench.training.measure._BATCH", 3)
    small = measured("none", *photos, draws=1, measures=frozenset())
    assert (small.accuracy, small.defended_accuracy) == (whole.accuracy, whole.defended_accuracy)
    # A product of another size rounds its last bit otherwise.
    assert small.calibration_error == pytest.approx(whole.calibration_error, rel=1e-4)
