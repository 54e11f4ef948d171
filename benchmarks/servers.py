"""Malicious servers on batches: images that come back, the manipulated model's accuracy, and what a client could notice.

python -m benchmarks.servers --data cifar10/
"""

import argparse

import torch

from benchmarks.command import one_line
from benchmarks.local_steps import training_of
from privbench.client import observe
from privbench.core import ATTACKS, ComponentSpec, ThreatModel, build_defense, build_server, parse_spec, resolve_defense
from privbench.data import open_images
from privbench.models import load_victim, resolve_victim
from privbench.scoring import psnr
from privbench.servers.suspicion import suspicion

CASES = (
    ("imprint:bins=256", 8, "none", "float64"),
    ("imprint:bins=256", 8, "none", "float32"),
    ("imprint:bins=256", 32, "none", "float32"),
    ("imprint:bins=1024", 64, "none", "float32"),
    ("imprint:bins=256", 8, "sgd:steps=3,lr=0.001", "float32"),
    ("imprint:bins=1024", 64, "sgd:steps=3,lr=0.001", "float32"),
    ("fishing:target=3", 8, "none", "float32"),
    ("fishing:target=3", 32, "none", "float32"),
    ("fishing:target=3", 64, "none", "float32"),
    ("fishing:target=3", 8, "sgd:steps=3,lr=1e-5", "float32"),
)
"""Server, batch size, local training, precision of the client."""


@one_line
def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--tested", type=int, default=500, help="Images behind the accuracy.")
    given = parser.parse_args()
    none = resolve_defense("none")
    defense = build_defense(none)
    spec = resolve_victim("vit_mini_patch4_32", "embedded", defense)
    images = open_images(given.data, split="test").for_classes(10)
    tested, truth = images.load(range(5000, 5000 + given.tested), 32)
    public, _ = images.load(range(1000, 1500), 32)
    print("| server | batch | local steps | precision | above 40 dB | above 60 dB | best dB | accuracy | suspicion |")
    print("|---|---|---|---|---|---|---|---|---|")
    for text, batch, local, dtype in CASES:
        asked = parse_spec(text)
        server = ComponentSpec(name=asked.name, parameters=dict(asked.parameters))
        victim = load_victim(spec, defense, generator=torch.Generator().manual_seed(0))
        cheating = build_server(server)
        if cheating is not None:
            cheating.prepare_model(victim)
            cheating.poison(victim, torch.Generator().manual_seed(0), public)
        with torch.no_grad():
            accuracy = float((victim(tested).argmax(1) == truth).float().mean())
        noticed = suspicion(victim)
        victim = victim.to(getattr(torch, dtype))
        pixels, labels = images.load(range(batch), 32)
        if asked.name == "fishing":  # the class must occur once
            labels = torch.where((labels == 3) & (torch.arange(batch) > 0), 4, labels)
        observation, _ = observe(
            victim,
            spec.model,
            defense,
            pixels.to(getattr(torch, dtype)),
            labels,
            declared=none,
            threat_model=ThreatModel(server="malicious"),
            generator=torch.Generator().manual_seed(1),
            training=training_of(local),
            server=server,
        )
        found = ATTACKS.get(asked.name)()(observation, generator=torch.Generator().manual_seed(0)).images
        best = torch.stack([psnr(one.expand_as(pixels), pixels) for one in found]).amax(0)
        counts = f"{int((best > 40).sum())} of {batch} | {int((best > 60).sum())} of {batch} | {float(best.max()):.1f}"
        print(f"| {text} | {batch} | {local} | {dtype} | {counts} | {accuracy:.3f} | {noticed:.2f} |", flush=True)


if __name__ == "__main__":
    main()
