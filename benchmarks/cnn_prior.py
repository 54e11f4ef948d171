"""Whether a CNN's statistics help our matching: `adjoint-matching` with GradViT's prior as one more term, and without.

    python -m benchmarks.cnn_prior --model deit_tiny_patch16_224 --weights FILE --data imagenet-val --indices 2,12 \
        --prior NAME:FILE --weight 0 --weight 3e-6 --trials 1 --trials 3 --steps 700 -o benchmarks/cnn-prior.csv

Seconds are of the processor. A file that is there already is gone on with.
"""

import csv
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path

import click
import torch
from torch import Tensor

from benchmarks.attacks import Update, measured, updates
from benchmarks.command import Benchmark
from benchmarks.printed import rows_there
from privbench.attacks.adjoint_matching import AdjointMatching, Weight
from privbench.attacks.adjoint_settings import AdjointSettings
from privbench.core import Attack, UserError
from privbench.inversion import BatchNormStatistics, Constant, PriorTerm
from privbench.models import Victim, prior_for
from privbench.resolving.resolve import parse_indices
from privbench.scoring.suite import metric_suite

__all__ = ["HEADER", "WithPrior", "main"]

HEADER = ["photo", "trials", "weight", "steps", "seconds", "PSNR", "LPIPS"]


class WithPrior(AdjointMatching):
    """The default attack with the distance to a CNN's batch-normalisation statistics as one more term."""

    prior: str
    """As `gradvit` takes it."""
    bn_prior: Weight
    """Weight of the prior, means over places; 0: none."""

    def _prior_terms(self, sized: AdjointSettings, model: Victim) -> list[PriorTerm]:
        terms = super()._prior_terms(sized, model)
        if not self.bn_prior:
            return terms
        cnn = prior_for(self.prior, model.image_size)
        if cnn is None:
            raise UserError(f"the prior '{self.prior}' is for smaller images than {model.image_size} pixels; give its ?size=")
        return [*terms, PriorTerm("bn", Constant(self.bn_prior), BatchNormStatistics(cnn, cnn.image_size, "mean"))]


def _images(attack: Attack, client: Update) -> Tensor:
    return attack(client.observation, generator=client.generator()).images


@click.command(cls=Benchmark)
@click.option("--model", required=True, help="Registered or timm name.")
@click.option("--weights", required=True, help="File, or random.")
@click.option("--data", required=True, help="Data set, folder or file.")
@click.option("--indices", required=True, help="Of the photos, as run takes them.")
@click.option("--prior", required=True, help="As gradvit's prior.")
@click.option("--weight", "weights_of_prior", multiple=True, type=click.FloatRange(min=0), default=[0, 3e-6], show_default=True)
@click.option("--trials", "counts", multiple=True, type=click.IntRange(min=1), default=[1, 3], show_default=True)
@click.option("--steps", type=click.IntRange(min=1), default=1200, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="CSV.")
def main(
    model: str,
    weights: str,
    data: str,
    indices: str,
    prior: str,
    weights_of_prior: Sequence[float],
    counts: Sequence[int],
    steps: int,
    threads: int,
    output: Path,
) -> None:
    """PSNR and LPIPS photo by photo, with the prior and without, by one trial and by several."""
    torch.set_num_threads(threads)
    table = rows_there(output, HEADER)
    done = {tuple(row[:4]) for row in table}
    clients = updates(model=model, weights=weights, data=data, indices=indices)
    photos = [str(index) for index in parse_indices(indices)]
    suite = metric_suite(patch_size=None)
    with output.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([HEADER, *table])
        for trials, weight in product(counts, weights_of_prior):
            attack = WithPrior(prior=prior, bn_prior=weight, trials=trials, steps=steps)
            for photo, client in zip(photos, clients, strict=True):
                settings = (photo, str(trials), f"{weight:g}", str(steps))
                if settings not in done:
                    writer.writerow([*settings, *measured(partial(_images, attack, client), client, suite)])
                    file.flush()


if __name__ == "__main__":
    main()
