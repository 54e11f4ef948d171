"""The examples of CONTRIBUTING.md, taken out of the page and used exactly as they stand there."""

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

from privbench.cli import main
from privbench.core import ATTACKS, DEFENSES, Record
from tests.conformance import client_update, simulated_gradients

PAGE = Path(__file__).parents[1] / "CONTRIBUTING.md"


def example(base: str) -> str:
    """The one Python block of the page that declares a subclass of `base`."""
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    (block,) = [block for block in blocks if f"({base}):" in block]
    return str(block)


def imported(name: str, source: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    path = folder / f"{name}.py"
    path.write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(f"example_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Both examples, under their names, as long as the test runs."""
    ATTACKS.register("plain", imported("plain", example("GroupAttack"), tmp_path, monkeypatch).PlainMatching)
    DEFENSES.register("mirror", imported("mirror", example("Defense"), tmp_path, monkeypatch).Mirror)
    yield
    ATTACKS.unregister("plain")
    DEFENSES.unregister("mirror")


def test_the_defense_has_at_most_60_lines() -> None:
    assert len(example("Defense").splitlines()) <= 60


@pytest.mark.usefixtures("registered")
def test_both_examples_run_from_the_command_line(tmp_path: Path) -> None:
    listed = CliRunner().invoke(main, ["list", "defenses"])
    assert "Mirrors a batch left to right" in listed.output
    where = [
        "--weights",
        "random",
        "--limit",
        "1",
        "--device",
        "cpu",
        "--no-download",
        "--quiet",
        "--output",
        str(tmp_path / "runs"),
    ]
    what = ["--attack", "plain:steps=3", "--defense", "mirror:probability=1", "--adversary", "oracle"]
    result = CliRunner().invoke(main, ["run", *what, *where])
    assert result.exit_code == 0, result.output
    assert "mirror:probability=1.0" in result.output
    (path,) = (tmp_path / "runs").rglob("record.json")
    record = Record.load(path)
    assert (record.case.attack.name, record.case.defense_name) == ("plain", "mirror")
    assert record.images[0].failure is None


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(("adversary", "bound"), [("unaware", True), ("aware", True), ("oracle", False)])
def test_no_row_of_the_example_reports_privacy_that_the_oracle_does_not_see(
    adversary: str, bound: bool, tmp_path: Path
) -> None:
    arguments = ["--attack", "closed-form", "--defense", "mirror:probability=1", "--adversary", adversary]
    arguments += ["--weights", "random", "--limit", "1", "--device", "cpu", "--no-download", "--output", str(tmp_path / "runs")]
    result = CliRunner().invoke(main, ["run", *arguments])
    assert result.exit_code == 0, result.output
    (path,) = (tmp_path / "runs").glob("*/record.json")
    record = Record.load(path)
    assert ("input-not-undone" in record.flags) is bound
    assert ("a lower bound" in result.output) is bound
    assert (record.summary["psnr"].mean > 60) is not bound
    drawn = CliRunner().invoke(main, ["figure", "front", str(tmp_path / "runs"), "-o", str(tmp_path / "front.png")])
    assert ("every row is a lower bound" in drawn.output) is bound


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(("adversary", "explained"), [("oracle", True), ("unaware", False)])
def test_the_oracle_sees_through_the_example_and_the_unaware_does_not(adversary: str, explained: bool) -> None:
    update = client_update("mirror:probability=1", adversary=adversary)
    ours = simulated_gradients(update.observation, update.secret.images, update.secret.labels)
    name = "network.patch_embed.proj.weight"
    observed = update.observation.gradients[name]
    assert bool((ours[name] - observed).norm() < 1e-4 * observed.norm()) is explained
