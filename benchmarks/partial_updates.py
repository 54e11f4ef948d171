"""Updates that are not whole: which part of a model gives away what, and adapters (LoRA) of several ranks.

    python -m benchmarks.partial_updates --data cifar10/ --images 2 -o benchmarks/partial-updates.csv

One image an update, no defense, labels known. Of each part the cheapest attack that applies. Adapters stand beside all
query-key-value layers; `trained` ones took five steps on sixteen other images, others are as peft makes them (B is zero).
"""

import argparse
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

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
    "last block and head": r"blocks\.2\.|network\.norm|head",
    "head": r"head",
}
"""Part to a pattern of its parameters' names."""
RANKS = (4, 16, 64, 128)
ORDER = ("closed-form", "subspace", "adjoint-matching", "inverting-gradients")
_NONE = resolve_defense("none")


def victim_of(data: str, model: str, rank: int = 0, trained: bool = False) -> tuple[Victim, ModelSpec]:
    """The embedded victim, with adapters of a rank where that is not 0."""
    defense = build_defense(_NONE)
    spec = resolve_victim(model, "embedded", defense)
    victim = load_victim(spec, defense, generator=torch.Generator().manual_seed(0))
    if not rank:
        return victim, spec.model
    with_lora(victim.network, rank, generator=torch.Generator().manual_seed(0))
    if trained:
        others = open_images(data, split="test").for_classes(10)
        images, labels = others.load([(100 + number) % len(others) for number in range(16)], victim.image_size)
        sent, _ = client_update(victim, spec.model, images, labels, "lora_", LocalTraining(steps=5, learning_rate=0.1))
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
    cases = [(part, pattern, 0, False) for part, pattern in PARTS.items()]
    cases += [(f"LoRA r={r}{', trained' if t else ''}", "lora_", r, t) for r in RANKS for t in (False, True)]
    images = open_images(data, split="test").for_classes(10)
    for label, pattern, rank, trained in cases:
        if not re.search(only, label):
            continue
        victim, spec = victim_of(data, model, rank, trained)
        values, used, size = [], "", 0
        for index in range(count):
            pixels, labels = images.load((index,), victim.image_size)
            observation, _ = client_update(victim, spec, pixels, labels, pattern)
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
