"""The default attack with a CNN's statistics as one more term."""

import csv
from pathlib import Path

import torch
from click.testing import CliRunner

from benchmarks.attacks import updates
from benchmarks.cnn_prior import HEADER, WithPrior, main
from privbench.inversion import BatchNormStatistics
from privbench.models import prior_for

_RUN = ["--model", "vit_mini_patch4_32", "--weights", "embedded", "--data", "photos", "--indices", "0,3", "--steps", "4"]
_PRIOR = ["--prior", "cnn_mini_32", "--trials", "1"]


def test_the_term_pulls_towards_the_statistics() -> None:
    client = updates(1)[0]
    prior = prior_for("cnn_mini_32", 32)
    assert prior is not None
    found = [
        WithPrior(prior="cnn_mini_32", bn_prior=weight, steps=8)(client.observation, generator=client.generator())
        for weight in (0.0, 1.0)
    ]
    term = BatchNormStatistics(prior, 32, "mean")
    without, with_it = (float(term(one.images[None]).detach()) for one in found)
    assert with_it < without


def test_a_file_is_gone_on_with(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    run = CliRunner()
    assert run.invoke(main, [*_RUN, *_PRIOR, "--weight", "0", "-o", str(file)]).exit_code == 0
    before = file.read_text().splitlines()
    assert run.invoke(main, [*_RUN, *_PRIOR, "--weight", "0", "--weight", "0.1", "-o", str(file)]).exit_code == 0
    rows = list(csv.reader(file.read_text().splitlines()))
    assert file.read_text().splitlines()[: len(before)] == before
    assert rows[0] == HEADER
    assert [(row[0], row[2]) for row in rows[1:]] == [("0", "0"), ("3", "0"), ("0", "0.1"), ("3", "0.1")]
    assert torch.tensor([float(row[5]) for row in rows[1:]]).min() > 5


def test_a_prior_for_smaller_images_is_refused(tmp_path: Path) -> None:
    wanted = ["--model", "deit_tiny_patch16_224", "--weights", "random", "--data", "photos", "--indices", "0", "--steps", "1"]
    result = CliRunner().invoke(main, [*wanted, *_PRIOR, "--weight", "1", "-o", str(tmp_path / "rows.csv")])
    assert result.exit_code == 2
    assert "smaller images than 224" in result.output
