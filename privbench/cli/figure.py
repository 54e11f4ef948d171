"""`privbench figure`: figures of a folder of results, made from its records alone."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from privbench.cli.place import path_or_url

if TYPE_CHECKING:
    from privbench.runs.remote import Remote

__all__ = ["figure"]

_FORMATS = (".pdf", ".png", ".svg")


@click.command()
@click.argument("name", type=click.Choice(["front"]))
@click.argument("folder", type=path_or_url)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="File to write: .pdf, .png or .svg.")
@click.option("--metric", default="psnr", show_default=True, help="Leakage metric, as `privbench list metrics` names it.")
def figure(name: str, folder: "Path | Remote", output: Path, metric: str) -> None:
    """Draw figure NAME from all records below FOLDER, a path or URL.

    front: what each defense leaves to its strongest attacker, with its 95 % interval, against the accuracy of its victim.
    """
    from privbench.core import UserError
    from privbench.figures import figure_bytes, front_figure, front_points
    from privbench.runs.leaderboard import leaderboard
    from privbench.runs.remote import fetched
    from privbench.runs.store import atomic_write
    from privbench.scoring import registered_metric

    if output.suffix not in _FORMATS:
        raise UserError(f"--output {output} has no format that a figure can have; accepted: {', '.join(_FORMATS)}")
    described = registered_metric(metric)
    with fetched(folder) as local:
        rows = leaderboard(local)
    points = front_points(rows, metric=metric, higher_is_leakier=described.higher_is_leakier)
    label = f"{metric.upper().replace('_', '-')}{f', {described.unit}' if described.unit else ''}"
    drawn = front_figure(points, label=label, higher_is_leakier=described.higher_is_leakier)
    atomic_write(output, figure_bytes(drawn, output.suffix.removeprefix(".")))
    unpriced = points[points["source"] == "card"]
    if len(unpriced):
        click.echo(
            f"accuracy of {', '.join(sorted(set(unpriced['defense'])))} is that of the victim's card; "
            "`privbench evaluate` measures it under the defense"
        )
    left_out = sorted(set(rows["defense"]) - set(points["defense"]))
    if left_out:
        click.echo(f"left out, no victim was trained under them by this recipe: {', '.join(left_out)}")
    click.echo(f"{name}: {len(points)} points, {int(points['on_front'].sum())} on the front -> {output}")
