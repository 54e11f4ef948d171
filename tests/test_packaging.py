"""What ships: the wheel is built, looked into, installed into an empty folder, and used from somewhere else."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from privbench.core import DEFENSES, Record
from privbench.models import DEFAULT_MODEL, embedded_name

ROOT = Path(__file__).parents[1]


def called(*command: str, cwd: Path, **variables: str) -> str:
    """Runs Python with these arguments on one thread; returns stdout."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PIP_NO_INDEX": "1", **variables}
    done = subprocess.run([sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built in a copy because setuptools leaves its traces in the tree."""
    folder = tmp_path_factory.mktemp("wheel")
    everywhere = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info", "checkpoints")

    def unneeded(place: str, names: list[str]) -> set[str]:
        # The records, not the room of the same name.
        return everywhere(place, names) | ({"results"} if Path(place) == ROOT else set())

    source = shutil.copytree(ROOT, folder / "source", symlinks=True, ignore=unneeded)
    called("-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), cwd=source)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the installed wheel and nothing else."""
    target = tmp_path_factory.mktemp("installed")
    command = (
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--target",
        str(target),
        str(wheel),
    )
    called(*command, cwd=target)
    return target


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A working directory with folders of the user's own that have our names and must not be imported."""
    for name in ("attacks", "defenses"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('the folder of a stranger was imported')\n")
    return tmp_path


def test_the_wheel_holds_the_suite_and_nothing_beside_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(next(name for name in names if name.endswith(".dist-info/METADATA"))).decode()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"privbench"}
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "privbench").rglob("*.py")}
    for room in ("attacks", "defenses"):
        sources |= {f"privbench/{path.relative_to(ROOT)}" for path in (ROOT / room).glob("*.py")}
    assert {"privbench/attacks/gradvit.py", "privbench/defenses/mjp.py", "privbench/cli/run.py"} <= sources
    assert {name for name in names if name.endswith(".py")} == sources
    assert {f"privbench/report/page.{kind}" for kind in ("html", "css", "js")} <= names
    assert {"privbench/py.typed", "privbench/attacks/cards/gradvit.md", "privbench/defenses/cards/mjp.md"} <= names
    assert any(name.endswith("/LICENSE") for name in names)
    assert "License-Expression: Apache-2.0" in metadata
    assert "# privbench" in metadata


def test_the_wheel_holds_every_embedded_model_with_its_card(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    # PRECODE's bottleneck has weights, and no victim with one is embedded; its card says so.
    trained = {DEFENSES.get(name)().trained_as() for name in DEFENSES.names()} - {"precode"}
    models = [embedded_name(DEFAULT_MODEL, name) for name in sorted(trained)] + [embedded_name("cnn_mini_32", "none")]
    needed = {f"privbench/models/weights/{model}.{ending}" for model in models for ending in ("safetensors", "json")}
    assert needed <= names
    assert {name for name in names if name.startswith("privbench/models/weights/") and not name.endswith(".py")} == needed


def test_the_installed_copy_lists_and_runs_from_anywhere(installed: Path, elsewhere: Path) -> None:
    path = str(installed)
    short = ("--defense", "none", "--set", "attack.steps=3", "--limit", "1", "--device", "cpu", "--no-download", "--quiet")
    printed = called("-m", "privbench", "run", *short, "--output", "runs", cwd=elsewhere, PYTHONPATH=path)
    assert "astronaut" in printed
    (record,) = (elsewhere / "runs").rglob("record.json")
    result = Record.load(record)
    assert result.case.victim.weights == "embedded"
    assert [image.failure for image in result.images] == [None]
    lines = (
        "import importlib.util as u",
        "print(u.find_spec('privbench').origin, u.find_spec('privbench.attacks').origin)",
        "from privbench.cli import main",
        "main(['report', 'runs'], standalone_mode=False)",
        "main(['list', 'defenses', '--json'], standalone_mode=False)",
    )
    places, _, listed = called("-c", "; ".join(lines), cwd=elsewhere, PYTHONPATH=path).partition("\n")
    assert places.split() == [f"{path}/privbench/__init__.py", f"{path}/privbench/attacks/__init__.py"]
    assert {"none", "no-pe", "naive-shuffle", "mjp"} <= {entry["name"] for entry in json.loads(listed[listed.index("[") :])}
    assert f"#case-{result.case_id}" in (elsewhere / "report.html").read_text(encoding="utf-8")
