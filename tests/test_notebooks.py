"""Every figure has a notebook that is stored with its outputs, says how its records are made, and runs on what is committed."""

import ast
import base64
import json
import re
import shlex
from pathlib import Path
from typing import Any

import click
import papermill
import pytest

from benchmarks.notebooks import LARGEST
from privbench.cli import main
from privbench.plots.registry import FIGURES

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "results" / "notebooks").glob("*.ipynb"))
SECONDS = 120
LONG = {"architectures", "leakage-map", "positions", "trajectories"}
"""Run with the slow tests; the tests of figures draw theirs too."""
IN_A_KERNEL = "ablation"
"""The notebook that is run by Jupyter itself by default; the slow tests run all so, and the others run in this process."""
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path: Path, kind: str) -> list[dict[str, Any]]:
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in found if cell["cell_type"] == kind]


def test_every_figure_has_a_notebook() -> None:
    # Animations are too large to be committed.
    assert {path.stem for path in NOTEBOOKS} == set(FIGURES) - {"evolution"}


@each_notebook
def test_outputs_are_stored_small_and_in_words_too(path: Path) -> None:
    assert path.stat().st_size <= LARGEST
    outputs = [output for cell in cells(path, "code") for output in cell["outputs"]]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert pictures
    for output in pictures:
        assert base64.b64decode("".join(output["data"]["image/png"])).startswith(b"\x89PNG")
        alt = output["metadata"]["image/png"]["alt"]
        assert alt.startswith(f"{path.stem}: ")
        assert re.search(r"n = \d", alt)
    assert all(set(output["data"]) == {"image/png"} for output in pictures)
    # A warning or an error would be stored as well.
    assert {output["output_type"] for output in outputs} == {"execute_result"}


@each_notebook
def test_two_lines_of_set_up_and_a_figure(path: Path) -> None:
    first, *others = cells(path, "code")
    assert [line for line in "".join(first["source"]).splitlines() if line] == [
        "import privbench",
        next(line for line in first["source"] if "load_results(" in line).rstrip("\n"),
    ]
    assert all("".join(cell["source"]).startswith("results.figure(") for cell in others)


@each_notebook
def test_the_first_cell_names_a_command_that_exists(path: Path) -> None:
    first = json.loads(path.read_text(encoding="utf-8"))["cells"][0]
    assert first["cell_type"] == "markdown"
    lines = re.findall(r"^privbench (.+)$", "".join(first["source"]), flags=re.MULTILINE)
    assert lines
    for name, *words in map(shlex.split, lines):
        command = main.get_command(click.Context(main), name)
        assert command is not None
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= known


@each_notebook
def test_notebooks_only_read(path: Path) -> None:
    code = "\n".join("".join(cell["source"]) for cell in cells(path, "code"))
    imported = re.findall(r"^(?:from|import) (\w+)", code, flags=re.MULTILINE)
    assert set(imported) <= {"IPython", "matplotlib", "os", "pandas", "pathlib", "privbench"}


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, id=path.stem, marks=[pytest.mark.nightly] * (path.stem != IN_A_KERNEL)) for path in NOTEBOOKS],
)
def test_a_notebook_runs_on_the_committed_records(path: Path, tmp_path: Path) -> None:
    papermill.execute_notebook(
        path, tmp_path / path.name, cwd=path.parent, progress_bar=False, execution_timeout=SECONDS, log_output=False
    )
    outputs = [output for cell in cells(tmp_path / path.name, "code") for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)


def shown(path: Path) -> list[Any]:
    """What the cells of a notebook end with, run one after the other in this process."""
    names: dict[str, Any] = {}
    values = []
    for cell in cells(path, "code"):
        *statements, last = ast.parse("".join(cell["source"])).body
        if not isinstance(last, ast.Expr):
            statements.append(last)
        exec(compile(ast.Module(statements, []), path.name, "exec"), names)
        if isinstance(last, ast.Expr):
            values.append(eval(compile(ast.Expression(last.value), path.name, "eval"), names))
    return values


@pytest.mark.parametrize(
    "path", [path for path in NOTEBOOKS if path.stem not in {*LONG, IN_A_KERNEL}], ids=lambda path: path.stem
)
def test_the_cells_of_a_notebook_draw_a_picture(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    pictures = [value._repr_png_()[0] for value in shown(path) if hasattr(value, "_repr_png_")]
    assert any(picture.startswith(b"\x89PNG") for picture in pictures)
