"""What the closed forms get and where they stop: the tables in the cards of attacks/README.md.

Run `python -m benchmarks.closed_forms masks` (MJP at several ratios), `search` (tokens one by one), `noise` (noise and
clipping of the update), `precision` (float64) or `models` (random weights at 224 pixels); `--data` takes what
`privbench run --data` takes. Images 0 to 7, client seeds 5 to 12.
"""

import time
from collections.abc import Iterator
from itertools import islice
from statistics import fmean, median

import click
import torch
from torch import Tensor

from benchmarks.command import BenchmarkGroup
from privbench.adversary import simulate
from privbench.attacks.closed_form import ClosedForm
from privbench.attacks.subspace import Subspace
from privbench.client import observe
from privbench.closed_form.embedding import PatchEmbedding
from privbench.closed_form.first_block import FirstBlock
from privbench.closed_form.tokens import Tokens
from privbench.core import Attack, Observation, Secret, ThreatModel, build_defense, resolve_defense
from privbench.core.patches import to_patches
from privbench.data import open_images
from privbench.models import DEFAULT_MODEL, load_victim, resolve_victim
from privbench.scoring.patches import best_placement

IMAGES = range(8)
RATIOS = (0.03, 0.1, 0.27, 0.5, 0.7, 0.9)


def updates(
    data: str,
    defense: str,
    model: str,
    weights: str,
    dtype: torch.dtype = torch.float32,
    *,
    adversary: str = "unaware",
) -> Iterator[tuple[Observation, Secret]]:
    """One client update of a batch of one for each image, computed and sent in `dtype`."""
    specs = resolve_defense(defense)
    built = build_defense(specs)
    spec = resolve_victim(model, weights, built)
    victim = load_victim(spec, built, generator=torch.Generator().manual_seed(0)).to(dtype)
    for index in IMAGES:
        images, labels = open_images(data).load([index], spec.model.image_size)
        yield observe(
            victim,
            spec.model,
            built,
            images.to(dtype),
            labels,
            declared=specs,
            threat_model=ThreatModel.model_validate({"adversary": adversary}),
            generator=torch.Generator().manual_seed(5 + index),
        )


def errors(images: Tensor, truth: Tensor) -> Tensor:
    """`[64]`, mean squared error of each 4x4 patch."""
    return (to_patches(images, 4) - to_patches(truth, 4)).double()[0].flatten(1).square().mean(dim=1)


def decibels(error: Tensor) -> float:
    """PSNR over all patches given, at most 150 as in the suite."""
    return min(150.0, float(-10 * torch.log10(error.mean())))


def attacked(attack: Attack, observation: Observation) -> tuple[Tensor, float]:
    """Images and seconds."""
    began = time.perf_counter()
    result = attack(observation, generator=torch.Generator().manual_seed(0))
    return result.images, time.perf_counter() - began


@click.group(cls=BenchmarkGroup)
@click.option("--data", default="photos", show_default=True, help="As in `privbench run --data`.")
@click.pass_context
def main(context: click.Context, data: str) -> None:
    """Measures the closed forms."""
    torch.set_num_threads(1)
    context.obj = data


@main.command()
@click.pass_obj
def masks(data: str) -> None:
    """Steps 1 to 4 under MJP: mean PSNR of unmasked patches, and of all patches after the best placement; exact masks."""
    click.echo(
        "ratio | masked | exact masks | unmasked, row space only | unmasked, mean | median | PSNR-patch | closed-form unmasked"
    )
    for ratio in RATIOS:
        rows = []
        for observation, secret in updates(data, f"mjp:mask_ratio={ratio}", DEFAULT_MODEL, "embedded"):
            mask = secret.choices["mjp.mask"]
            images = attacked(Subspace(search=0), observation)[0]
            alone = attacked(Subspace(position_gradients=False), observation)[0]
            simple = attacked(ClosedForm(), observation)[0]
            found = mask_found(observation)
            rows.append(
                (
                    float(mask.sum()),
                    float(torch.equal(found, mask)),
                    *(decibels(errors(given, secret.images)[~mask]) for given in (alone, images)),
                    decibels(errors(best_placement(images, secret.images, 4), secret.images)),
                    decibels(errors(simple, secret.images)[~mask]),
                )
            )
        count, exact, row_space, unmasked, placed, simple_db = zip(*rows, strict=True)
        click.echo(
            f"{ratio} | {fmean(count):.1f} | {sum(exact):.0f} of {len(rows)} | {fmean(row_space):.1f} | "
            f"{fmean(unmasked):.1f} ({min(unmasked):.1f} to {max(unmasked):.1f}) | {median(unmasked):.1f} | "
            f"{fmean(placed):.1f} ({min(placed):.1f} to {max(placed):.1f}) | {fmean(simple_db):.1f}"
        )


@main.command()
@click.option("--ratio", "ratios", type=float, multiple=True, default=RATIOS, show_default=True, help="Mask ratio.")
@click.option("--rounds", type=int, multiple=True, default=(0, 2), show_default=True, help="Rounds of starts; repeatable.")
@click.option("--images", type=click.IntRange(1, len(IMAGES)), default=len(IMAGES), help="The first of them.")
@click.pass_obj
def search(data: str, ratios: tuple[float, ...], rounds: tuple[int, ...], images: int) -> None:
    """MJP with and without the search for masked tokens: PSNR-patch, PSNR in the order inferred (`aware`), processor time."""
    click.echo("ratio | rounds | all found | unmasked, mean | PSNR-patch, mean | PSNR, aware, mean | processor seconds, most")
    for ratio in ratios:
        given = updates(data, f"mjp:mask_ratio={ratio}", DEFAULT_MODEL, "embedded", adversary="aware")
        rows: dict[int, list[tuple[float, ...]]] = {count: [] for count in rounds}
        for observation, secret in islice(given, images):
            for count, kept in rows.items():
                kept.append(searched(observation, secret, count))
        for count, kept in rows.items():
            complete, unmasked, placed, aligned, seconds = zip(*kept, strict=True)
            scores = (unmasked, placed, aligned)
            columns = " | ".join(f"{fmean(score):.1f} ({min(score):.1f} to {max(score):.1f})" for score in scores)
            found = f"{sum(complete):.0f} of {len(kept)}" if count else "-"
            click.echo(f"{ratio} | {count} | {found} | {columns} | {max(seconds):.1f}")


def searched(observation: Observation, secret: Secret, rounds: int) -> tuple[float, ...]:
    """Whether all masked tokens were found, PSNR of the unmasked, of all after the best placement, of the image, seconds."""
    began = time.process_time()
    result = Subspace(search=rounds)(observation, generator=torch.Generator().manual_seed(0))
    seconds = time.process_time() - began
    unmasked = ~secret.choices["mjp.mask"]
    return (
        float(result.losses["found"] == result.losses["masked"]),
        decibels(errors(result.images, secret.images)[unmasked]),
        decibels(errors(best_placement(result.images, secret.images, 4), secret.images)),
        decibels(errors(result.images, secret.images)),
        seconds,
    )


def mask_found(observation: Observation) -> Tensor:
    """The mask as the subspace attack reads it off its residuals."""
    model = simulate(observation).model
    block = FirstBlock.of(model)
    embedding = PatchEmbedding.of(model)
    space = block.token_space(observation, embedding.token_count)
    return Tokens(embedding, block, space, Subspace().tolerance).masked


@main.command()
@click.pass_obj
def noise(data: str) -> None:
    """Gaussian noise with a deviation relative to the root mean square of the whole gradient, and clipping to norm 0.001."""
    click.echo("change | closed-form | subspace")
    changes = [
        ("none", 0.0, False),
        ("clipped", 0.0, True),
        *((f"{level:g}", level, False) for level in (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)),
    ]
    for name, level, clipped in changes:
        scores: list[list[float]] = [[], []]
        for number, (observation, secret) in enumerate(updates(data, "none", DEFAULT_MODEL, "embedded")):
            given = changed(observation, level, clipped, number)
            for column, attack in zip(scores, (ClosedForm(), Subspace()), strict=True):
                column.append(decibels(errors(attacked(attack, given)[0], secret.images)))
        click.echo(
            f"{name} | " + " | ".join(f"{fmean(column):.1f} ({min(column):.1f} to {max(column):.1f})" for column in scores)
        )


def changed(observation: Observation, level: float, clipped: bool, seed: int) -> Observation:
    """The update with noise, or clipped."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.cat([value.flatten() for value in observation.gradients.values()])
    std, factor = level * float(values.square().mean().sqrt()), 1e-3 / float(values.norm()) if clipped else 1.0
    gradients = {
        name: factor * (value + std * torch.randn(value.shape, generator=generator))
        for name, value in observation.gradients.items()
    }
    return observation.with_gradients(gradients)


@main.command()
@click.pass_obj
def precision(data: str) -> None:
    """The subspace attack on gradients computed and sent in float64: what rounding, not the defense, takes away."""
    click.echo("ratio | unmasked, mean | PSNR-patch")
    for ratio in (0.1, 0.27, 0.5):
        unmasked, placed = [], []
        for observation, secret in updates(data, f"mjp:mask_ratio={ratio}", DEFAULT_MODEL, "embedded", torch.float64):
            images = attacked(Subspace(search=0), observation)[0]
            unmasked.append(decibels(errors(images, secret.images)[~secret.choices["mjp.mask"]]))
            placed.append(decibels(errors(best_placement(images, secret.images.float(), 4), secret.images)))
        columns = (f"{fmean(column):.1f} ({min(column):.1f} to {max(column):.1f})" for column in (unmasked, placed))
        click.echo(f"{ratio} | " + " | ".join(columns))


@main.command()
@click.pass_obj
def models(data: str) -> None:
    """The closed form on random weights at 224 pixels."""
    click.echo("model | PSNR, mean | least | seconds, most")
    for model in ("vit_tiny_patch16_224", "vit_small_patch16_224", "vit_base_patch16_224"):
        scores, seconds = [], []
        for observation, secret in updates(data, "none", model, "random"):
            images, took = attacked(ClosedForm(), observation)
            scores.append(decibels((images - secret.images).double().square()))
            seconds.append(took)
        click.echo(f"{model} | {fmean(scores):.1f} | {min(scores):.1f} | {max(seconds):.1f}")


if __name__ == "__main__":
    main()
