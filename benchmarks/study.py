"""How long a study takes from its file to resolved cases.

    python -m benchmarks.study

A study of one photo under five defenses, two attacks and two adversaries, and as many seeds as make up the number of cases.
"""

import tempfile
import time
from pathlib import Path

import click

from benchmarks.command import Benchmark
from privbench.sweep.study import read_study

_CASES = 20
"""Cases of one seed."""


@click.command(cls=Benchmark)
@click.option("--cases", "counts", multiple=True, type=click.IntRange(min=_CASES), default=(1000, 50_000), show_default=True)
def main(counts: tuple[int, ...]) -> None:
    """Prints seconds of wall time and of the process's own; the first number includes loading attacks and defenses."""
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "study.yaml"
            seeds = ", ".join(map(str, range(count // _CASES)))
            axes = "defense: [none, mjp, naive-shuffle, no-pe, gradient-noise], attack: [gradvit, closed-form]"
            grid = f"{{{axes}, adversary: [unaware, aware], seed: [{seeds}]}}"
            path.write_text(f"name: large\nsettings: {{limit: 1}}\ngrid: {grid}\n", encoding="utf-8")
            wall, own = time.perf_counter(), time.process_time()
            study = read_study(path)
            wall, own = time.perf_counter() - wall, time.process_time() - own
        click.echo(f"{len(study.cases)} cases: {wall:.2f} s, the process's own {own:.2f} s")


if __name__ == "__main__":
    main()
