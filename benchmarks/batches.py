"""What attacks get from updates of several images, batch by batch, beside what the same attack makes of another batch's update.

    python -m benchmarks.batches --attack token-search --batch-size 2 --first 100 --batches 16 -o benchmarks/batches.csv

A row is an image of a batch: its PSNR after one assignment for the batch, and its share of the gradient's energy (the squared
norm of its own gradient, beside those of the other images) and how much of that gradient its reconstruction explains, which are
read off the truth and for scoring alone: from 0.4 on an image counts as found. Seconds are of the processor, for the batch.
Rows are written batch by batch; what a file has already is not computed again. With `--control` the attack gets the update of
the batch that many images further on, and is scored against this one. `--attack breaching:seethroughgradients --set seconds=77`
runs an attack of `breaching` on the same updates.
"""

import csv
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import click
import torch
import yaml
from torch import Tensor

from benchmarks.command import Benchmark
from benchmarks.peer import attack_with_breaching
from benchmarks.photos import steps_within
from privbench.adversary import simulate
from privbench.client import observe
from privbench.core import (
    ATTACKS,
    Failure,
    Observation,
    Secret,
    ThreatModel,
    UserError,
    build_defense,
    resolve_defense,
)
from privbench.data import open_images
from privbench.models import DEFAULT_MODEL, load_victim, resolve_victim
from privbench.replay import energy_shares, explained_alone
from privbench.scoring import pair, psnr

__all__ = ["COLUMNS", "Client", "batch_case", "batch_rows"]

_CASE = ("attack", "settings", "defense", "adversary", "model", "weights", "control", "batch")
COLUMNS = (*_CASE, "image", "psnr", "energy", "explained", "seconds", "losses", "flags")
_PEER = "breaching:"
"""What an attack's name begins with that is `breaching`'s, followed by its configuration."""
_LOSSES = ("missing", "residual", "matching", "features")


class Client:
    """A victim under a defense, and its private images.

    Args:
        model: The victim by name.
        weights: Which weights.
        defense: As on the command line.
        adversary: What the attacker knows of it.
        data: Private images.
        image_size: In pixels; None: the architecture's own.
    """

    def __init__(
        self, model: str, weights: str, defense: str, adversary: str, data: str, image_size: int | None = None
    ) -> None:
        named = model if image_size is None else f"{model}@{image_size}"
        self.names = {"defense": defense, "adversary": adversary, "model": named, "weights": weights}
        self.declared = resolve_defense(defense)
        self.defense = build_defense(self.declared)
        self.spec = resolve_victim(model, weights, self.defense, image_size=image_size)
        self.victim = load_victim(self.spec, self.defense, generator=torch.Generator().manual_seed(0))
        self.images = open_images(data).for_classes(self.spec.model.num_classes)
        self.threat_model = ThreatModel.model_validate({"adversary": adversary})

    def sent(self, indices: Sequence[int]) -> tuple[Observation, Secret]:
        """The update of a batch, and its secret."""
        pixels, labels = self.images.load(tuple(indices), self.spec.model.image_size)
        return observe(
            self.victim,
            self.spec.model,
            self.defense,
            pixels,
            labels,
            declared=self.declared,
            threat_model=self.threat_model,
            generator=torch.Generator().manual_seed(indices[0]),
        )


def batch_case(
    client: Client, attack: str, indices: Sequence[int], control: int = 0, settings: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """The columns by which a batch's rows are found again; arguments as of `batch_rows`."""
    return {
        **client.names,
        "attack": attack,
        "settings": " ".join(f"{name}={value}" for name, value in (settings or {}).items()),
        "control": str(control),
        "batch": f"{indices[0]}-{indices[-1]}",
    }


def batch_rows(
    client: Client, attack: str, indices: Sequence[int], control: int = 0, settings: Mapping[str, Any] | None = None
) -> list[dict[str, str]]:
    """The rows of one batch.

    Args:
        client: Who sends.
        attack: Its name, or `breaching:CONFIG` for one of `breaching`, which takes as many `seconds` as the settings say.
        indices: Images of the batch.
        control: By how many images the batch is further on whose update the attack gets; 0 for its own.
        settings: Hyper-parameters of the attack that are not its defaults.
    """
    observation, secret = client.sent(indices)
    given = client.sent([index + control for index in indices])[0] if control else observation
    run = _peer if attack.startswith(_PEER) else _ours
    found, losses, flags, seconds = run(client, attack, given, dict(settings or {}))
    images, simulation = found[pair(found, secret.images)], simulate(observation)
    scores = psnr(images, secret.images)
    shares = energy_shares(simulation, observation.update, secret.fed, secret.labels)
    explained = explained_alone(simulation, observation.update, images, secret.images, secret.labels)
    same = {
        **batch_case(client, attack, indices, control, settings),
        "seconds": f"{seconds:.1f}",
        "losses": " ".join(f"{name}={value:.4g}" for name, value in losses.items() if name in _LOSSES),
        "flags": " ".join(flags),
    }
    each = zip(indices, scores.tolist(), shares.tolist(), explained, strict=True)
    return [
        same | {"image": str(image), "psnr": f"{score:.3f}", "energy": f"{share:.4f}", "explained": f"{part:.4f}"}
        for image, score, share, part in each
    ]


_Found = tuple[Tensor, Mapping[str, float], Sequence[str], float]
"""Images in [0, 1], losses, flags, processor seconds."""


def _ours(_client: Client, attack: str, given: Observation, settings: dict[str, Any]) -> _Found:
    built, begun = ATTACKS.get(attack)(**settings), time.process_time()
    result = built(given, generator=torch.Generator().manual_seed(0))
    seconds = time.process_time() - begun
    if isinstance(result, Failure):
        raise click.ClickException(f"{attack} failed on this batch: {result.reason}")
    return result.images.clamp(0, 1), result.losses, result.flags, seconds


def _peer(client: Client, attack: str, given: Observation, settings: dict[str, Any]) -> _Found:
    """As its users run it, with as many steps as fit in the time that is given."""
    if set(settings) != {"seconds"}:
        raise UserError(f"{attack} takes one setting, processor seconds for a batch; give --set seconds=NUMBER")

    def run(steps: int) -> Tensor:
        overrides = [f"optim.max_iterations={steps}", f"optim.callback={steps}"]
        return attack_with_breaching(attack.removeprefix(_PEER), client.victim, given, overrides=overrides).images

    steps = steps_within(float(settings["seconds"]), run)
    begun = time.process_time()
    return run(steps), {}, [f"steps={steps}"], time.process_time() - begun


@click.command(cls=Benchmark)
@click.option("--attack", default="token-search", show_default=True, help="Or breaching:CONFIG, with --set seconds=NUMBER.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A hyper-parameter of the attack; repeatable.")
@click.option("--defense", default="none", show_default=True)
@click.option("--adversary", type=click.Choice(["unaware", "aware", "oracle"]), default="unaware", show_default=True)
@click.option("--model", default=DEFAULT_MODEL, show_default=True)
@click.option("--weights", default="embedded", show_default=True)
@click.option("--image-size", type=int, help="In pixels.  [default: the architecture's]")
@click.option("--data", default="cifar10", show_default=True, help="Private images.")
@click.option("--first", default=100, show_default=True, help="The first image.")
@click.option("--batch-size", default=2, show_default=True)
@click.option("--batches", default=16, show_default=True, help="How many, one after the other.")
@click.option("--control", default=0, help="Give the attack the update of the batch this many images further on.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), required=True, help="CSV file, added to.")
def main(
    attack: str,
    settings: tuple[str, ...],
    defense: str,
    adversary: str,
    model: str,
    weights: str,
    image_size: int | None,
    data: str,
    first: int,
    batch_size: int,
    batches: int,
    control: int,
    output: Path,
) -> None:
    """Attack batch after batch, and write the rows of each as it is done."""
    torch.set_num_threads(1)
    given = {name: yaml.safe_load(value) for name, _, value in (setting.partition("=") for setting in settings)}
    client, done = Client(model, weights, defense, adversary, data, image_size), list[dict[str, str]]()
    if output.exists():
        with output.open(encoding="utf-8", newline="") as file:
            done = list(csv.DictReader(file))
    here = []
    for start in range(first, first + batches * batch_size, batch_size):
        indices = range(start, start + batch_size)
        wanted = batch_case(client, attack, indices, control, given)
        rows = [row for row in done if all(row[name] == value for name, value in wanted.items())]
        if not rows:
            try:
                rows = batch_rows(client, attack, indices, control, given)
            except UserError as error:
                raise click.UsageError(str(error)) from None
            is_new = not output.exists()
            with output.open("a", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                if is_new:
                    writer.writeheader()
                writer.writerows(rows)
        scores = [float(row["psnr"]) for row in rows]
        here.append(scores)
        click.echo(f"{wanted['batch']}: " + ", ".join(f"{score:.1f}" for score in scores) + f" dB, {rows[0]['seconds']} s")
    click.echo(
        f"mean {fmean(map(fmean, here)):.1f} dB, best image of a batch {fmean(map(max, here)):.1f}, "
        f"worst {fmean(map(min, here)):.1f}, {len(here)} batches"
    )


if __name__ == "__main__":
    main()
