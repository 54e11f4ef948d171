"""`privbench features`: what the features behind a block give away of an image, with and without a defense."""

from pathlib import Path

import click

from privbench.cli.numeric import SEED, WholeNumber

__all__ = ["features"]


@click.command()
@click.option("--defense", default="none,stochastic-layers", show_default=True, help="Defenses, separated by commas.")
@click.option("--attack", default="feature-matching,feature-decoder", show_default=True, help="Attacks, NAME:KEY=VALUE,...")
@click.option("--adversary", default="unaware,aware,oracle", show_default=True, help="Adversaries, separated by commas.")
@click.option("--block", default=1, show_default=True, type=WholeNumber(min=0), help="Behind which block; 0: embedded tokens.")
@click.option("--model", default="vit_mini_patch4_32", show_default=True, help="Victim: an embedded or timm model.")
@click.option("--weights", default="embedded", show_default=True, help="embedded, pretrained (timm's hub), random, or a file.")
@click.option("--data", default="photos", show_default=True, help="Private images: a data set, folder or file.")
@click.option("--limit", default=4, show_default=True, type=WholeNumber(min=1), help="The first N private images.")
@click.option("--public", help="Images that decoders learn from: a data set, folder or file.")
@click.option("--public-limit", default=5000, show_default=True, type=WholeNumber(min=1), help="The first N of them.")
@click.option("--seed", default=0, show_default=True, type=SEED, help="Source of all random choices.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda[:N].")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="CSV file to write too.")
def features(
    defense: str,
    attack: str,
    adversary: str,
    block: int,
    model: str,
    weights: str,
    data: str,
    limit: int,
    public: str | None,
    public_limit: int,
    seed: int,
    device: str,
    output: Path | None,
) -> None:
    """Invert the features behind a block: by optimisation, and by a decoder trained on public images.

    The unaware adversary takes a draw of its own for the client's, the aware one averages over draws, the oracle is told the
    client's. Decoders are left out where no public images are named.
    """
    import csv
    from io import StringIO

    import torch
    from rich.console import Console

    from privbench.core import UserError, build_defense, resolve_defense
    from privbench.core.spec import parse_spec
    from privbench.data import open_images
    from privbench.features import FeatureDecoder, feature_attack, feature_study
    from privbench.models import load_victim, resolve_victim
    from privbench.runner.components import split_names
    from privbench.runner.machine import resolve_device
    from privbench.scoring import metric_suite
    from privbench.store.files import atomic_write

    attacks = [feature_attack(spec.name, spec.parameters) for spec in map(parse_spec, split_names(attack, "--attack"))]
    adversaries = [name.strip() for name in adversary.split(",")]
    wrong = [name for name in adversaries if name not in {"unaware", "aware", "oracle"}]
    if wrong:
        raise UserError(f"adversary '{wrong[0]}'; accepted: unaware, aware, oracle")
    if public is None:
        attacks = [one for one in attacks if not isinstance(one, FeatureDecoder)]
        if not attacks:
            raise UserError("attack feature-decoder learns from public images; name some with --public")
    chosen, rows = resolve_device(device), []
    console = Console(stderr=True)
    for text in split_names(defense):
        specs = resolve_defense(text)
        built = build_defense(specs)
        spec = resolve_victim(model, weights, built)
        victim = load_victim(spec, built, generator=torch.Generator().manual_seed(seed)).to(chosen)
        size = spec.model.image_size
        images = open_images(data, "test").as_tensors(size)[0][:limit].to(chosen, torch.float32) / 255
        learnt = None if public is None else open_images(public, "train").as_tensors(size)[0][:public_limit]
        with console.status("") as status:
            rows += feature_study(
                victim,
                spec.model,
                built,
                specs,
                images,
                block=block,
                attacks=attacks,
                adversaries=adversaries,  # type: ignore[arg-type]
                public=learnt,
                suite=metric_suite(patch_size=victim.patch_size, image_size=size),
                seed=seed,
                report=lambda what, text=text: status.update(f"{text}: {what}"),  # type: ignore[misc]
            )
    names = list(rows[0].scores)
    table = StringIO()
    writer = csv.writer(table)
    columns = [f"{name}_{part}" for name in names for part in ("mean", "low", "high")]
    writer.writerow(["defense", "block", "attack", "adversary", "n", *columns])
    for row in rows:
        intervals = [row.scores[name] for name in names]
        values = [f"{value:.6g}" for one in intervals for value in (one.mean, one.low, one.high)]
        writer.writerow([row.defense, row.block, row.attack, row.adversary, len(row.images), *values])
        psnr, ssim = row.scores["psnr"], row.scores["ssim"]
        click.echo(
            f"{row.defense:40} block {row.block}  {row.attack:17} {row.adversary:8} "
            f"PSNR {psnr.mean:5.1f} [{psnr.low:.1f}, {psnr.high:.1f}]  SSIM {ssim.mean:.3f}"
        )
    if output is not None:
        atomic_write(output, table.getvalue().encode())
        click.echo(str(output))
