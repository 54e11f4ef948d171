"""What a record and its table say of batches: each image's share of the gradient's energy, and the best image of each batch."""

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from privbench.analysis.score_text import best_of_batches, found_text, mean_score
from privbench.core import Case, Record
from privbench.tables.cases import case_table

pytestmark = pytest.mark.integration


def test_energy_and_the_best_image_are_told(small_case: Callable[..., Case], compute: Callable[..., Record]) -> None:
    record = compute(small_case(batch_size=2, limit=4))
    for batch in (0, 1):
        shares = [image.energy for image in record.images if image.batch == batch]
        assert sum(share for share in shares if share is not None) == pytest.approx(1, abs=1e-5)
    best = best_of_batches(record.images)
    assert [image.batch for image in best] == [0, 1]
    for image in best:
        assert all(image.scores["psnr"] >= other.scores["psnr"] for other in record.images if other.batch == image.batch)
    mean = mean_score(best, "psnr")
    assert mean == pytest.approx(sum(image.scores["psnr"] for image in best) / 2)
    assert mean_score(best, "no such") is None
    written = io.StringIO()
    Console(file=written, width=140).print(case_table(record, "none"))
    assert "best of each batch, n = 2" in written.getvalue()
    assert f"{mean:.2f}" in written.getvalue()


def test_whether_an_image_is_found_is_told_by_its_own_gradient(
    small_case: Callable[..., Case], compute: Callable[..., Record]
) -> None:
    record = compute(small_case(batch_size=2, limit=2))
    first, second = record.images
    assert first.explained_alone is not None
    assert first.explained_alone != first.explained
    images = [first.model_copy(update={"explained_alone": 0.4}), second.model_copy(update={"explained_alone": 0.39})]
    assert [found_text(images), found_text(images[:1]), found_text(images[1:])] == ["1 of 2", "yes", "no"]


def test_single_images_have_none(small_case: Callable[..., Case], compute: Callable[..., Record]) -> None:
    image = compute(small_case(limit=1)).images[0]
    assert (image.energy, image.explained_alone, image.found) == (None, None, None)
    assert found_text([image]) == "n/a"
