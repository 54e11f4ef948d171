"""The tables of a Markdown page anew, each from the pack that its mark names.

    python -m benchmarks.result_tables results/README.md

A table stands between `<!-- results/NAME -->` and `<!-- end -->` and is the overview of `results/NAME.jsonl.gz`, which
`privbench leaderboard results/NAME.jsonl.gz -o NAME.md` writes; of `<!-- results/ONE+OTHER -->` it has the sizes of images
side by side. What stands outside the marks stays as it is.
"""

import re
from pathlib import Path

import click

from benchmarks.command import Benchmark
from privbench.analysis.overview import overview
from privbench.analysis.side_by_side import side_by_side
from privbench.store.places import local_folder

__all__ = ["main", "renewed"]

_TABLE = re.compile(r"(?P<mark><!-- results/(?P<name>[\w+-]+) -->\n).*?(?P<end><!-- end -->)", re.DOTALL)


def renewed(page: str, results: Path) -> tuple[str, list[str]]:
    """A page with today's tables, and the names of those that are others than before.

    Args:
        page: Markdown.
        results: Folder of the packs `NAME.jsonl.gz`.

    Raises:
        UserError: A pack is missing or cannot be read.
    """
    changed: list[str] = []

    def table(found: re.Match[str]) -> str:
        packs = [local_folder(results / f"{name}.jsonl.gz") for name in found["name"].split("+")]
        text = found["mark"] + (overview(packs[0]) if len(packs) == 1 else side_by_side(packs)) + found["end"]
        if text != found[0]:
            changed.append(found["name"])
        return text

    return _TABLE.sub(table, page), changed


@click.command(cls=Benchmark)
@click.argument("page", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(page: Path) -> None:
    """Writes the tables of a page anew."""
    text, changed = renewed(page.read_text(encoding="utf-8"), page.parent)
    page.write_text(text, encoding="utf-8")
    click.echo(f"{page}: {', '.join(changed) or 'no table'} changed")


if __name__ == "__main__":
    main()
