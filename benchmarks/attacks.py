"""Attack beside attack: ours and the one of `breaching` with the same name, each in its own configuration.

python -m benchmarks.attacks --output benchmarks/attacks-cpu.csv

Same victim, photos, known labels and budget of gradient evaluations. `breaching` runs as its users run it, over normalised
pixels and with its own settings, beside our `paper` preset ("published") or our `quick` one ("defaults"); rows called "same
settings" give both sides one start, one step length and one weight of total variation. APRIL's closed form needs a first
block without LayerNorm and residual: both sides get the embedded victim with `breaching`'s own.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import click
import torch
from torch import Tensor, nn

from benchmarks.command import Benchmark
from benchmarks.peer import PeerResult, april_block, attack_with_breaching
from benchmarks.timing import append_rows
from privbench.adversary import start_images
from privbench.client import observe
from privbench.core import (
    ATTACKS,
    MODELS,
    Attack,
    Failure,
    Observation,
    Secret,
    ThreatModel,
    build_defense,
    generator_for,
    resolve_defense,
)
from privbench.data import open_images
from privbench.models import DEFAULT_MODEL, Victim, default_spec, load_victim, resolve_victim
from privbench.models.zoo import Architecture
from privbench.resolving.options import RunOptions
from privbench.resolving.resolve import resolve_cases
from privbench.runner.context import load_case
from privbench.scoring import bootstrap_interval, score_batch
from privbench.scoring.suite import MetricSuite

__all__ = ["COMPARISONS", "April", "Comparison", "main"]

_DEVIATION = 0.25
"""Of the normalisation, rounded: a step of 0.1 in normalised pixels is one of 0.025 in [0, 1]."""
_APRIL_MODEL = "vit_mini_april"


@dataclass(frozen=True)
class Update:
    """One client: its model, what it sent, what it keeps to itself, and the attacker's seed."""

    victim: Victim
    observation: Observation
    secret: Secret
    seed: int

    def generator(self) -> torch.Generator:
        """Our attack's source of draws."""
        return torch.Generator().manual_seed(self.seed)


@dataclass(frozen=True)
class Comparison:
    """One optimisation attack on both sides.

    Attributes:
        attack: Ours, by its registered name.
        preset: Ours.
        config: `breaching`'s attack configuration.
        overrides: Changes to it.
        per_step: Gradient evaluations of one step.
        same_start: Whether `breaching` is given our start.
    """

    attack: str
    preset: str
    config: str
    overrides: tuple[str, ...] = ()
    per_step: int = 1
    same_start: bool = False

    def ours(self, budget: int) -> Attack:
        """Our attack with so many gradient evaluations."""
        component: type[Attack] = ATTACKS.get(self.attack)
        return component.from_preset(self.preset, {"steps": max(1, budget // self.per_step)})

    def theirs(self, update: Update, budget: int) -> PeerResult:
        """`breaching`'s; a step of L-BFGS more stands for the evaluations by which ours keeps its best iterate."""
        steps = max(1, budget // self.per_step) + (self.per_step > 1)
        start = None
        if self.same_start:
            attack = self.ours(budget)
            start = start_images(attack.parameters()["start"], 1, update.observation, update.generator())[0]
        overrides = [f"optim.max_iterations={steps}", f"optim.callback={steps}", *self.overrides]
        return attack_with_breaching(
            self.config, update.victim, update.observation, overrides=overrides, start=start, seed=update.seed
        )


_KNOWN_LABEL = "attack_type=optimization"
"""Its `deepleakage` refuses known labels; with this it takes them and is otherwise the same."""

COMPARISONS = {
    "inverting-gradients, published": Comparison("inverting-gradients", "paper", "invertinggradients"),
    "inverting-gradients, defaults": Comparison("inverting-gradients", "quick", "invertinggradients"),
    "inverting-gradients, same settings": Comparison(
        "inverting-gradients",
        "quick",
        "invertinggradients",
        (f"optim.step_size={0.03 / _DEVIATION}", f"regularization.total_variation.scale={0.8 * _DEVIATION}"),
        same_start=True,
    ),
    "dlg, published": Comparison("dlg", "paper", "deepleakage", (_KNOWN_LABEL,), per_step=20),
    "dlg, same settings": Comparison(
        "dlg", "quick", "deepleakage", (_KNOWN_LABEL, "optim.step_size=0.1"), per_step=20, same_start=True
    ),
}
"""By the name of the row."""


class April:
    """The closed form on both sides."""

    def ours(self, _: int) -> Attack:
        """Ours has no parameters."""
        component: type[Attack] = ATTACKS.get("april")
        return component.from_preset(None, {})

    def theirs(self, update: Update, _: int) -> PeerResult:
        """`breaching`'s `april_analytic`."""
        return attack_with_breaching("april_analytic", update.victim, update.observation, seed=update.seed)


def updates(photos: int | None = None, **options: Any) -> list[Update]:
    """An undefended client's update for each of so many photos, labels known.

    Args:
        photos: How many; None: all that the options name.
        **options: As `RunOptions`: another model, weights, data; by default the embedded victim and photos.
    """
    chosen = {"defense": "none", "labels": "known", **options, **({} if photos is None else {"limit": photos})}
    case = resolve_cases(cast(RunOptions, chosen))[0]
    prepared = load_case(case, torch.device("cpu"))
    return [
        Update(prepared.victim, *prepared.observe(number), generator_for(case, "attack", number).initial_seed())
        for number in range(len(case.data.indices))
    ]


def measured(attack: Callable[[], Tensor], client: Update, suite: MetricSuite) -> list[str]:
    """Processor seconds, PSNR in dB and LPIPS of an attack that returns images, `[batch, 3, height, width]`."""
    begun = time.process_time()
    images = attack()
    spent = time.process_time() - begun
    scores = score_batch(images.clamp(0, 1), client.secret.images, suite)[0].scores
    return [f"{spent:.0f}", f"{scores['psnr']:.2f}", f"{scores['lpips']:.3f}"]


@contextmanager
def april_model() -> Iterator[None]:
    """Registers the embedded architecture with the first block that `breaching` has for APRIL."""
    block = april_block()
    plain: Architecture = MODELS.get(DEFAULT_MODEL)

    def build(num_classes: int, image_size: int) -> nn.Module:
        network = plain.build(num_classes, image_size)
        blocks = cast(Any, network).blocks
        blocks[0] = block(_with_drop_path(blocks[0]))
        return network

    MODELS.register(_APRIL_MODEL, Architecture(_APRIL_MODEL, "for this comparison", 32, 10, build))
    try:
        yield
    finally:
        MODELS.unregister(_APRIL_MODEL)


def _with_drop_path(block: nn.Module) -> nn.Module:
    """A block of timm under the attribute names of the older timm that `breaching` was written for."""
    block.drop_path = nn.Identity()
    return block


def april_updates(photos: int, weights: str) -> list[Update]:
    """Updates of the model of `april_model`, with random or with the embedded victim's weights, as far as it has the layers."""
    defense = build_defense(resolve_defense("none"))
    victim = load_victim(resolve_victim(_APRIL_MODEL, "random", defense), defense, generator=torch.Generator().manual_seed(0))
    if weights == "embedded":
        trained = load_victim(resolve_victim(DEFAULT_MODEL, "embedded", defense), defense, generator=torch.Generator())
        victim.load_state_dict(trained.state_dict(), strict=False)
    found = []
    for number in range(photos):
        images, labels = open_images("photos").load([number], 32)
        observation, secret = observe(
            victim,
            default_spec(_APRIL_MODEL),
            defense,
            images,
            labels,
            declared=(),
            threat_model=ThreatModel(labels="known"),
            generator=torch.Generator().manual_seed(number),
        )
        found.append(Update(victim, observation, secret, number))
    return found


def compare(name: str, comparison: Comparison | April, clients: Sequence[Update], budget: int) -> dict[str, str]:
    """One row: both sides on the same updates, the PSNR of each photo, and the mean difference with its 95 % interval."""
    attack = comparison.ours(budget)
    size = attack.group_size(clients[0].observation)
    ours: list[float] = []
    for first in range(0, len(clients), size):
        group = clients[first : first + size]
        found = attack.together([one.observation for one in group], generators=[one.generator() for one in group])
        ours += [
            0.0 if isinstance(one, Failure) else _psnr(one.images, client) for one, client in zip(found, group, strict=True)
        ]
    peers = [comparison.theirs(client, budget) for client in clients]
    theirs = [_psnr(peer.images, client) for peer, client in zip(peers, clients, strict=True)]
    gap = bootstrap_interval([mine - other for mine, other in zip(ours, theirs, strict=True)], seed=0)
    return {
        "comparison": name,
        "evaluations": str(max(peer.evaluations for peer in peers)),
        "ours, mean": f"{fmean(ours):.2f}",
        "breaching, mean": f"{fmean(theirs):.2f}",
        "difference": f"{gap.mean:+.2f}",
        "low": f"{gap.low:+.2f}",
        "high": f"{gap.high:+.2f}",
        "n": str(gap.n),
        "breaching gave up": str(sum(peer.gave_up for peer in peers)),
        "ours": " ".join(f"{value:.2f}" for value in ours),
        "breaching": " ".join(f"{value:.2f}" for value in theirs),
    }


def _psnr(images: Tensor, client: Update) -> float:
    error = (images.double() - client.secret.images.double()).square().mean()
    return float(-10 * torch.log10(error.clamp(min=1e-15)))


@click.command(cls=Benchmark)
@click.option("--only", multiple=True, help="Only these rows.")
@click.option("--budget", type=click.IntRange(min=20), default=200, show_default=True, help="Gradient evaluations per photo.")
@click.option("--photos", type=click.IntRange(1, 8), default=8, show_default=True)
@click.option("--threads", type=int, default=1, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), help="CSV to append to.")
def main(only: Sequence[str], budget: int, photos: int, threads: int, output: Path | None) -> None:
    """PSNR of our attacks and of breaching's, photo by photo."""
    accepted = [*COMPARISONS, *_APRIL]
    for name in only:
        if name not in accepted:
            raise click.UsageError(f"unknown row '{name}'; accepted: {', '.join(accepted)}")
    torch.set_num_threads(threads)
    with april_model():
        for name in only or accepted:
            closed = name in _APRIL
            clients = april_updates(photos, _APRIL[name]) if closed else updates(photos)
            row = compare(name, April() if closed else COMPARISONS[name], clients, budget)
            click.echo(" | ".join(row.values()))
            append_rows(output, [row], threads)


_APRIL = {"april, random weights": "random", "april, embedded weights": "embedded"}


if __name__ == "__main__":
    main()
