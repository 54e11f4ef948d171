"""In a notebook a run shows its progress and its pictures while it runs, by itself, and its results afterwards."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import papermill
import pytest

from privbench.watch.notebook import in_notebook

ATTACK = "adjoint-matching:steps=30,adjoint=free"


def executed(folder: Path, *lines: str) -> list[dict[str, Any]]:
    """The outputs of a notebook of one cell, and of what every output was before it was replaced."""
    cell: dict[str, Any] = {
        "cell_type": "code",
        "id": "run",
        "metadata": {},
        "execution_count": None,
        "outputs": [],
        "source": "\n".join(lines),
    }
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    path = folder / "run.ipynb"
    path.write_text(json.dumps({"cells": [cell], "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}), encoding="utf-8")
    papermill.execute_notebook(path, folder / "done.ipynb", cwd=folder, progress_bar=False, execution_timeout=120)
    outputs: list[dict[str, Any]] = json.loads((folder / "done.ipynb").read_text(encoding="utf-8"))["cells"][0]["outputs"]
    return outputs


def test_this_is_no_notebook() -> None:
    assert not in_notebook()


@pytest.mark.parametrize("live", [None, pytest.param(False, marks=pytest.mark.nightly)])
def test_a_cell_shows_the_line_the_pictures_and_the_results(
    live: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    outputs = executed(
        tmp_path,
        "import privbench, IPython.display as shown",
        "seen = []",
        "real = shown.DisplayHandle.update",
        "def update(self, thing, **rest):",
        "    seen.append(getattr(thing, 'data', str(thing)))",
        "    real(self, thing, **rest)",
        "shown.DisplayHandle.update = update",
        "import privbench.watch.notebook as notebook",
        "notebook._LINE_INTERVAL = notebook._PICTURE_INTERVAL = 0.0",
        f"results = privbench.run(defense='none', attack='{ATTACK}', weights='random', limit=2, output='runs', live={live})",
        "display(results)",
        "print('views:', sum('reconstruction of image 2 so far' in text for text in seen))",
    )
    texts = ["".join(output.get("data", {}).get("text/plain", "")) for output in outputs]
    assert any(re.search(r"none: 2 images in \d:\d\d", text) for text in texts)
    pages = ["".join(output.get("data", {}).get("text/html", "")) for output in outputs]
    (results,) = [page for page in pages if "<table>" in page]
    (picture,) = re.findall(r'src="data:image/png;base64,([^"]+)"', results)
    assert base64.b64decode(picture).startswith(b"\x89PNG")
    printed = "".join("".join(output.get("text", "")) for output in outputs)
    views = int(re.findall(r"views: (\d+)", printed)[0])
    assert (views > 0) is (live is None)
    assert bool(list((tmp_path / "runs").glob("*/live.html"))) is (live is None)
    assert ("live view: " in printed) is (live is None)
