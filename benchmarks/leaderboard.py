"""How long a leaderboard of many records takes: copies of a reference record, each a case of its own.

Run `python -m benchmarks.leaderboard`. What is measured is the work of `privbench leaderboard` after its imports: finding,
reading and checking the records, the table and the file.
"""

import statistics
import tempfile
import time
from pathlib import Path

import click

from benchmarks.command import Benchmark
from privbench.analysis.leaderboard import write_leaderboard
from privbench.core import Record
from privbench.store.places import local_folder

REFERENCE = Path(__file__).parents[1] / "results" / "reference.jsonl.gz"


def copies(template: Record, count: int, folder: Path) -> None:
    """Writes so many records below a folder that differ in seed and case."""
    for seed in range(count):
        case = template.case.model_copy(update={"seed": seed})
        record = template.model_copy(update={"case": case, "case_id": case.identity})
        path = folder / case.folder / "record.json"
        path.parent.mkdir(parents=True)
        path.write_text(record.to_json(), encoding="utf-8")


@click.command(cls=Benchmark)
@click.option("--records", "counts", multiple=True, type=click.IntRange(min=1), default=(1000, 20_000), show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="The median of so many is printed.")
@click.option("--reference", type=click.Path(path_type=Path), default=REFERENCE, help="Where to take the record from.")
def main(counts: tuple[int, ...], rounds: int, reference: Path) -> None:
    """Prints seconds of wall time and of the process's own for each number of records."""
    path = min(local_folder(reference).rglob("record.json"))
    template = Record.load(path)
    click.echo(f"{path.parent.name}: {len(template.images)} images, {path.stat().st_size} bytes")
    for count in counts:
        with tempfile.TemporaryDirectory() as name:
            copies(template, count, Path(name) / "runs")
            walls, owns = [], []
            for _ in range(rounds):
                wall, own = time.perf_counter(), time.process_time()
                rows = write_leaderboard(Path(name) / "runs", Path(name) / "leaderboard.csv")
                walls.append(time.perf_counter() - wall)
                owns.append(time.process_time() - own)
                if len(rows) != count:
                    raise RuntimeError(f"{len(rows)} rows of {count} records")
        click.echo(f"{count} records: {statistics.median(walls):.2f} s, the process's own {statistics.median(owns):.2f} s")


if __name__ == "__main__":
    main()
