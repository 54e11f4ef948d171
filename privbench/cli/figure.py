"""`privbench figure`: figures of a folder of results, made from its records alone."""

from pathlib import Path
from typing import Literal

import click
from click.core import ParameterSource

import privbench
from privbench.core.errors import UserError
from privbench.plots.registry import FIGURES, OPTIONS

__all__ = ["figure"]

_FORMATS = (".pdf", ".png", ".svg")


@click.command(epilog="\b\n" + "\n".join(f"{name:13} {kind.summary}" for name, kind in FIGURES.items()))
@click.argument("name", type=click.Choice(list(FIGURES)))
@click.argument("folder", type=click.STRING, required=False)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="File to write: .pdf, .png or .svg.")
@click.option("--metric", default="psnr", show_default=True, help="Leakage metric, as `privbench list metrics` names it.")
@click.option(
    "--where",
    multiple=True,
    metavar="COLUMN=VALUE",
    help="Only the records with this value in a column of the leaderboard; may be repeated.",
)
@click.option(
    "--images",
    default="4",
    show_default=True,
    metavar="N|RANK,...",
    help="gallery: the first N images of each case, or some of best, median, worst (by mean PSNR).",
)
@click.option(
    "--rows",
    metavar="COLUMN,...",
    help="gallery: one row per combination, such as attack,defense: that of the highest leakage.  [default: every case]",
)
@click.option("--data", type=click.Path(path_type=Path), help="gallery: where the private images lie.  [default: as recorded]")
@click.option(
    "--weights",
    multiple=True,
    type=click.Path(path_type=Path),
    help="positions: weights of another victim beside the embedded ones; may be repeated.",
)
@click.option(
    "--width",
    type=click.Choice(["single", "double"]),
    default="double",
    show_default=True,
    help="Of a two-column paper: one column (3.25 inches) or both (6.8).",
)
@click.option("--font", type=click.Choice(["sans", "serif"]), default="sans", show_default=True, help="Of all text.")
@click.option("--no-caption", is_flag=True, help="Write the caption to a .txt beside the figure instead of into it.")
@click.pass_context
def figure(
    context: click.Context,
    name: str,
    folder: str | None,
    output: Path,
    metric: str,
    where: tuple[str, ...],
    images: str,
    rows: str | None,
    data: Path | None,
    weights: tuple[Path, ...],
    width: Literal["single", "double"],
    font: Literal["sans", "serif"],
    no_caption: bool,
) -> None:
    """Draw figure NAME from all records below FOLDER, a path or URL (positions: from weights, without one).

    Records compare only in the same setting (model, weights, images, threat model): of several settings that is drawn which
    has most to show, and --where chooses another.
    """
    taken = FIGURES[name].options
    for option in OPTIONS:
        if option not in taken and context.get_parameter_source(option) is ParameterSource.COMMANDLINE:
            takers = [other for other, kind in FIGURES.items() if option in kind.options]
            raise UserError(f"figure {name} takes no --{option}; accepted by: {', '.join(takers)}")
    if output.suffix not in _FORMATS:
        raise UserError(f"--output {output} has no format that a figure can have; accepted: {', '.join(_FORMATS)}")
    drawn = privbench.figure(
        name,
        folder,
        metric=metric,
        where=where,
        images=images,
        rows=tuple(word.strip() for word in rows.split(",")) if rows else (),
        data=data,
        weights=weights,
        width=width,
        font=font,
        captioned=not no_caption,
    )
    written = drawn.save(output)
    for note in drawn.notes:
        click.echo(note)
    click.echo(f"{name} -> {', '.join(map(str, written))}")
