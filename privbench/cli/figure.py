"""`privbench figure`: figures of a folder of results, made from its records alone."""

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from privbench.cli.numeric import WholeNumber
from privbench.cli.place import results_place
from privbench.plots.names import FIGURES, OPTIONS

if TYPE_CHECKING:
    from privbench.store.base import Store

__all__ = ["figure"]

_FORMATS = (".pdf", ".png", ".svg")


@click.command(epilog="\b\n" + "\n".join(f"{name:13} {summary}" for name, summary in FIGURES.items()))
@click.argument("name", type=click.Choice(list(FIGURES)))
@click.argument("folder", type=results_place, required=False)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="File to write: .pdf, .png or .svg.")
@click.option("--metric", default="psnr", show_default=True, help="Leakage metric, as `privbench list metrics` names it.")
@click.option(
    "--where",
    multiple=True,
    metavar="COLUMN=VALUE",
    help="Only the records with this value in a column of the leaderboard; may be repeated.",
)
@click.option(
    "--images", default=4, show_default=True, type=WholeNumber(min=1), help="Images of each case in a gallery, the first N."
)
@click.option(
    "--weights",
    multiple=True,
    type=click.Path(path_type=Path),
    help="positions: weights of another victim beside the embedded ones; may be repeated.",
)
@click.pass_context
def figure(
    context: click.Context,
    name: str,
    folder: "Store | None",
    output: Path,
    metric: str,
    where: tuple[str, ...],
    images: int,
    weights: tuple[Path, ...],
) -> None:
    """Draw figure NAME from all records below FOLDER, a path or URL (positions: from weights, without one).

    Records compare only in the same setting (model, weights, images, threat model): of several settings that is drawn which
    has most to show, and --where chooses another.
    """
    from privbench.core import UserError
    from privbench.plots import figure_bytes
    from privbench.plots.drawing import FigureRequest, draw_figure
    from privbench.store.files import atomic_write

    for option, takers in OPTIONS.items():
        if name not in takers and context.get_parameter_source(option) is ParameterSource.COMMANDLINE:
            raise UserError(f"figure {name} takes no --{option}; accepted by: {', '.join(n for n in FIGURES if n in takers)}")
    if output.suffix not in _FORMATS:
        raise UserError(f"--output {output} has no format that a figure can have; accepted: {', '.join(_FORMATS)}")
    with folder.open() if folder is not None else nullcontext() as local:
        drawn, notes = draw_figure(name, FigureRequest(local, metric, where, images, weights))
    atomic_write(output, figure_bytes(drawn, output.suffix.removeprefix(".")))
    for note in notes:
        click.echo(note)
    click.echo(f"{name} -> {output}")
