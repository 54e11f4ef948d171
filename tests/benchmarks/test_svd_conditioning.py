"""The notes on SVD conditioning say what was measured; a short training runs in every way."""

import csv
from pathlib import Path
from statistics import fmean

import pytest
import torch

from benchmarks.svd_conditioning import WAYS, train

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "research" / "svd-conditioning.md").read_text(encoding="utf-8")


def test_the_table_is_that_of_the_measurement() -> None:
    with (ROOT / "benchmarks" / "svd-conditioning.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    measured_part, leaked_part = PAGE.split("## What their gradients leak")
    shown = [line.split("|")[1:6] for line in measured_part.splitlines() if line.startswith("| `cnn_")]
    assert len(shown) == 2 * len(WAYS)
    for network, way, accuracies, mean, conditions in shown:
        measured = [row for row in rows if (row["network"], row["way"]) == (network.strip(" `"), way.strip())]
        assert [f"{100 * float(row['accuracy']):.1f}" for row in measured] == accuracies.strip().split(", ")
        assert [f"{float(row['condition_3']):.0f}" for row in measured] == conditions.strip().split(", ")
        assert float(mean.split()[0]) == pytest.approx(100 * fmean(float(row["accuracy"]) for row in measured), abs=0.051)
    assert leaked_part.count("| `cnn_") == 6


@pytest.mark.parametrize("way", WAYS)
def test_every_way_trains_and_repeats(way: str) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (128, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.randint(10, (128,), generator=generator)
    accuracy, conditions, network = train("covariance", way, 0, (images, labels), (images[:20], labels[:20]), 2)
    assert 0 <= accuracy <= 1
    assert len(conditions) == 2
    assert min(conditions) > 1
    again = train("covariance", way, 0, (images, labels), (images[:20], labels[:20]), 2)
    assert again[:2] == (accuracy, conditions)
    images = images[:4].float() / 255
    assert torch.equal(network(images), again[2](images))
