"""Updates that are not whole: which part of a model gives away what, and adapters of several kinds and ranks.

    python -m benchmarks.partial_updates --data cifar10/ --images 2 -o benchmarks/partial-updates.csv

One image an update, no defense, labels known. Of each part the cheapest attack that applies. Adapters stand beside all
query-key-value layers; `trained` ones took five steps on sixteen other images, others are as peft makes them (B is zero). Of
those with `5 steps` the update is the weight delta of five local steps, of all others one gradient.
"""

import argparse
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.command import one_line
from benchmarks.printed import print_table
from privbench.client import observe
from privbench.core import (
    ATTACKS,
    LocalTraining,
    ModelSpec,
    Normalisation,
    Observation,
    Secret,
    ThreatModel,
    UserError,
    build_defense,
    resolve_defense,
)
from privbench.data import open_images
from privbench.models import Victim, load_victim, resolve_victim
from privbench.models.lora import with_lora
from privbench.models.own import register_module
from privbench.scoring import psnr

PARTS: Mapping[str, str] = {
    "everything": "",
    "all but embedding and positions": r"blocks|norm|head",
    "first block's query-key-value": r"blocks\.0\.attn\.qkv\.weight",
    "positions and patch embedding": r"pos_embed|patch_embed",
    "patch embedding": r"patch_embed",
    "all attentions but the first": r"blocks\.[1-9]\d*\.attn",
    "all MLPs": r"mlp",
    "all LayerNorms": r"norm",
    "all biases (BitFit)": r"bias$",
    "last block and head": r"blocks\.2\.|network\.norm|head",
    "head": r"head",
}
"""Part to a pattern of its parameters' names."""
RANKS = (4, 16, 64, 128)
LOCAL = LocalTraining(steps=5, learning_rate=0.1)
ORDER = ("closed-form", "subspace", "adjoint-matching", "inverting-gradients")
_NONE = resolve_defense("none")


@dataclass(frozen=True)
class Adapter:
    """Adapters beside the query-key-value layers.

    Attributes:
        rank: Of LoRA; 0: none.
        trained: Whether B is no longer zero.
        dora: Whether rows have lengths of their own.
        steps: Whether the update is the delta of local steps.
        ia3: Factors of the layers' outputs instead (IA3, Liu et al., NeurIPS 2022, arXiv 2205.05638).
    """

    rank: int = 0
    trained: bool = False
    dora: bool = False
    steps: bool = False
    ia3: bool = False

    def __str__(self) -> str:
        name = "IA3" if self.ia3 else f"{'DoRA' if self.dora else 'LoRA'} r={self.rank}"
        return name + ", trained" * self.trained + ", 5 steps" * self.steps


ADAPTERS = (
    *(Adapter(rank, **how) for rank in RANKS for how in ({}, {"trained": True}, {"steps": True})),
    Adapter(16, trained=True, dora=True),
    Adapter(ia3=True),
)


def victim_of(data: str, model: str, adapter: Adapter | None = None) -> tuple[Victim, ModelSpec]:
    """The embedded victim, with adapters."""
    defense = build_defense(_NONE)
    spec = resolve_victim(model, "embedded", defense)
    victim = load_victim(spec, defense, generator=torch.Generator().manual_seed(0))
    if adapter is None:
        return victim, spec.model
    if adapter.ia3:
        from peft import IA3Config, inject_adapter_in_model

        inject_adapter_in_model(IA3Config(target_modules=["qkv"], feedforward_modules=[]), victim.network)
        victim.requires_grad_(True)
    else:
        with_lora(victim.network, adapter.rank, dora=adapter.dora, generator=torch.Generator().manual_seed(0))
    if adapter.trained:
        others = open_images(data, split="test").for_classes(10)
        images, labels = others.load([(100 + number) % len(others) for number in range(16)], victim.image_size)
        sent, _ = client_update(victim, spec.model, images, labels, "lora_", LOCAL)
        victim.load_state_dict({**victim.state_dict(), **{n: victim.get_parameter(n) + v for n, v in sent.update.items()}})
    normalisation = Normalisation(tuple(victim.mean.flatten().tolist()), tuple(victim.std.flatten().tolist()))
    name, weights = register_module(victim.network, image_size=victim.image_size, num_classes=10)
    spec = resolve_victim(name, str(weights), defense)
    registered = load_victim(spec, defense, generator=torch.Generator().manual_seed(0))
    registered.normalise_by(normalisation)
    return registered, spec.model


def client_update(
    victim: Victim,
    spec: ModelSpec,
    images: torch.Tensor,
    labels: torch.Tensor,
    part: str,
    training: LocalTraining | None = None,
) -> tuple[Observation, Secret]:
    """What a client sends that trains the parameters whose names a pattern finds, the others frozen."""
    return observe(
        victim,
        spec,
        build_defense(_NONE),
        images,
        labels,
        declared=_NONE,
        threat_model=ThreatModel(labels="known"),
        generator=torch.Generator().manual_seed(0),
        training=training,
        trains=[name for name, _ in victim.named_parameters() if re.search(part, name)],
    )


def rows(data: str, count: int, model: str, only: str) -> Iterator[list[str]]:
    """Part, parameters, attack, PSNR of every image in dB."""
    cases: list[tuple[str, str, Adapter | None]] = [(part, pattern, None) for part, pattern in PARTS.items()]
    cases += [(str(adapter), "lora_|ia3_", adapter) for adapter in ADAPTERS]
    images = open_images(data, split="test").for_classes(10)
    # All victims before the first row: whether peft is there should not turn out after minutes.
    made = [
        (label, pattern, adapter, *victim_of(data, model, adapter))
        for label, pattern, adapter in cases
        if re.search(only, label)
    ]
    for label, pattern, adapter, victim, spec in made:
        values, used, size = [], "", 0
        for index in range(count):
            pixels, labels = images.load((index,), victim.image_size)
            observation, _ = client_update(victim, spec, pixels, labels, pattern, LOCAL if adapter and adapter.steps else None)
            size = sum(value.numel() for value in observation.update.values())
            used = next((name for name in ORDER if _applies(name, observation)), "")
            if used:
                found = ATTACKS.get(used)()(observation, generator=torch.Generator().manual_seed(0))
                values.append(float(psnr(found.images, pixels)))
        yield [label, str(size), used or "none", *(f"{value:.1f}" for value in values)]


def _applies(name: str, observation: Observation) -> bool:
    try:
        ATTACKS.get(name)().require(observation)
    except UserError:
        return False
    return True


@one_line
def main() -> None:
    """Prints the rows, and writes them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="Data set, folder or file.")
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--model", default="vit_mini_patch4_32")
    parser.add_argument("--only", default="", help="Pattern of the parts to measure.")
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args()
    header = ["sent", "numbers", "attack", *(f"image {number}" for number in range(given.images))]
    print_table(header, rows(given.data, given.images, given.model, given.only), given.output)


if __name__ == "__main__":
    main()
