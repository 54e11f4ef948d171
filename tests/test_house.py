"""Rules of the house that no tool checks by itself: layers, links, sizes, and documents that agree with the code."""

import ast
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import grimp
import pytest
import yaml

import privbench
from privbench.cli import main
from privbench.core import ATTACKS, DEFENSES

ROOT = Path(__file__).parents[1]
CODE = [path for room in ("privbench", "attacks", "defenses", "benchmarks") for path in sorted((ROOT / room).rglob("*.py"))]
GENERATED = tuple(ROOT / "docs" / name for name in ("attacks", "defenses", "results", "_build"))
"""Written by docs/conf.py at every build."""
DOCUMENTS = sorted(
    path
    for folder in (".", "attacks/cards", "defenses/cards", "results", "benchmarks")
    for path in [*(ROOT / folder).glob("*.md"), *((ROOT / "docs").rglob("*.md") if folder == "." else [])]
    if not any(path.is_relative_to(folder) for folder in GENERATED)
)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def git(*arguments: str) -> str:
    """What git says of this checkout; skips where this is none."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True).stdout


# Layers and packaging


def test_imports_only_point_down() -> None:
    command = shutil.which("lint-imports", path=str(Path(sys.executable).parent))
    assert command is not None, "import-linter is part of the dev extra"
    done = subprocess.run([command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_layers_cover_every_room_and_the_linter_sees_through_the_links() -> None:
    graph = grimp.build_graph("privbench", cache_dir=None)
    contract, _ = project()["tool"]["importlinter"]["contracts"]
    layered = {name.strip() for layer in contract["layers"] for name in layer.split("|")}
    assert graph.find_children("privbench") - layered == {"privbench.__main__"}
    assert "privbench.adversary" in graph.find_modules_directly_imported_by("privbench.attacks.gradvit")
    assert "privbench.models" in graph.find_modules_directly_imported_by("privbench.defenses.mjp")


def test_no_files_import_each_other_in_a_circle() -> None:
    graph = grimp.build_graph("privbench", cache_dir=None)
    # The front door names what it imports lazily, for type checkers.
    left = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules - {"privbench"}}
    while left:
        imported = set().union(*left.values())
        # Whoever imports nobody of the rest, or is imported by nobody, is in no circle.
        free = {name for name in left if not left[name] & left.keys() or name not in imported}
        if not free:
            break
        left = {name: left[name] & left.keys() - free for name in left.keys() - free}
    assert left == {}


def test_the_table_of_rooms_has_the_layers_of_the_linter() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    table = text.partition("|---|---|\n")[2].partition("\n\n")[0].splitlines()
    rows = [{name.rstrip("/").removesuffix(".py") for name in re.findall(r"`([^`]+)`", row.split("|")[1])} for row in table]
    layers = project()["tool"]["importlinter"]["contracts"][0]["layers"]
    assert rows == [{name.strip().removeprefix("privbench.") for name in layer.split("|")} for layer in layers]
    holds = [row.split("|")[2].split(" · ") for row in table]
    assert [len(parts) for parts in holds] == [len(row) for row in rows]


def test_the_command_line_may_import_the_front_door_and_no_room_below_it() -> None:
    layered, contract = project()["tool"]["importlinter"]["contracts"]
    rooms = {room.strip() for layer in layered["layers"] for room in layer.split("|")}
    assert contract["source_modules"] == ["privbench.cli"]
    assert rooms - set(contract["forbidden_modules"]) == {
        f"privbench.{name}" for name in ("cli", "api", "results", "tables", "core")
    }
    # What is let through for parsing and printing is small and named in ARCHITECTURE.md.
    allowed = {line.rpartition(" -> ")[2] for line in contract["ignore_imports"]}
    assert len(allowed) <= 3
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    assert all(f"`{name.removeprefix('privbench.')}`" in text for name in allowed)


def test_attacks_and_defenses_are_committed_relative_links() -> None:
    for name in ("attacks", "defenses"):
        link = ROOT / "privbench" / name
        assert link.is_symlink()
        assert link.readlink() == Path("..") / name
        mode = git("ls-files", "--stage", f"privbench/{name}").split()[0]
        assert mode == "120000"


def test_the_list_of_packages_equals_the_folders_that_exist() -> None:
    folders = {path.parent for path in (ROOT / "privbench").rglob("__init__.py")}
    folders |= {ROOT / "privbench" / name for name in ("attacks", "defenses")}
    found = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert set(project()["tool"]["setuptools"]["packages"]) == found


def test_no_file_is_too_large_for_the_repository() -> None:
    files = git("ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    large = [name for name in files if name and (ROOT / name).is_file() and (ROOT / name).stat().st_size > 2_900_000]
    assert large == []


def test_embedded_weights_stay_small_and_each_victim_has_a_card() -> None:
    everything = sorted((ROOT / "privbench").rglob("*.safetensors"))
    assert sum(path.stat().st_size for path in everything) <= 18_000_000
    weights = [path for path in everything if path.parent == ROOT / "privbench" / "models" / "weights"]
    assert weights
    assert [path.name for path in weights if not path.with_suffix(".json").is_file()] == []


# Code


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def test_no_assert_outside_tests() -> None:
    found = [name_of(path) for path in CODE if any(isinstance(node, ast.Assert) for node in ast.walk(parsed(path)))]
    assert found == []


def test_means_are_the_same_on_every_python() -> None:
    """From 3.12 on `sum` rounds floats otherwise, so that a table's last digit would depend on the Python; `fmean` is exact."""
    means = re.compile(r"\bsum\(\w+\) / len\(")
    assert not [name_of(path) for path in CODE if means.search(path.read_text(encoding="utf-8"))]


def test_no_code_branches_on_the_name_of_an_adversary() -> None:
    """What an adversary knows is asked of its threat model, and what it simulates of the defense's three methods."""

    def compared(node: ast.Compare) -> bool:
        constants = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
        return bool({"unaware", "aware", "oracle"} & {value for value in constants if isinstance(value, str)})

    found = {
        name_of(path) for path in CODE for node in ast.walk(parsed(path)) if isinstance(node, ast.Compare) and compared(node)
    }
    assert found == {"privbench/core/threat_model.py"}


def test_every_module_says_what_it_is_for() -> None:
    tests = sorted((ROOT / "tests").rglob("*.py"))
    assert [name_of(path) for path in [*CODE, *tests] if not ast.get_docstring(parsed(path))] == []


# Documents


def test_the_version_is_the_same_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == privbench.__version__
    assert privbench.__version__ in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_checks_run_the_test_command_of_the_readme() -> None:
    command = "python3 -m venv .venv && .venv/bin/pip install -c requirements-lock.txt -e '.[dev]' && .venv/bin/pytest -n auto"
    assert f"\n{command}\n" in (ROOT / "README.md").read_text(encoding="utf-8")
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert "set -euo pipefail" in script
    places = [script.index(step) for step in command.split(" && ")]
    assert places == sorted(places)
    # The summary of the tests closes the log.
    assert places[-1] == len(script) - 1


def test_the_lock_pins_every_dependency_and_no_platform() -> None:
    lines = (ROOT / "requirements-lock.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line)] == []
    pinned = {canonical(line.partition("==")[0]) for line in lines}
    table = project()["project"]
    asked = [*table["dependencies"], *table["optional-dependencies"]["dev"]]
    names = {canonical(found.group()) for text in asked if (found := re.match(r"[A-Za-z0-9._-]+", text))}
    assert names - pinned == set()
    assert [name for name in pinned if name.startswith(("nvidia", "cuda", "triton"))] == []


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def prose(text: str) -> Iterator[str]:
    """The lines of a document without tables, code, pictures, and what stands between backticks or in a link's address."""
    for part in re.split(r"^ *```.*$", text, flags=re.MULTILINE)[::2]:
        yield from (
            re.sub(r"`[^`]*`|\]\([^)]*\)", "", line) for line in part.splitlines() if not line.startswith(("|", "    ", "!["))
        )


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if path.parent.name != "results"], ids=name_of)
def test_no_line_of_prose_is_longer_than_120_characters(path: Path) -> None:
    assert [line for line in prose(path.read_text(encoding="utf-8")) if len(line) > 120] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_links_lead_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)", path.read_text(encoding="utf-8"))
    inside = [target for target in targets if not target.startswith(("http://", "https://"))]
    assert [target for target in inside if not (path.parent / target).exists()] == []


# The one tells what is gone, the other names files that its reader writes.
@pytest.mark.parametrize("path", [path for path in DOCUMENTS if path.stem not in {"CHANGELOG", "CONTRIBUTING"}], ids=name_of)
def test_files_that_are_named_are_there(path: Path) -> None:
    form = r"(?<![\w/.-])((?:results|benchmarks|docs|tests|examples|privbench|attacks|defenses)/[\w./-]+\.(?:\w{2,6}))\b"
    named = {name for name in re.findall(form, path.read_text(encoding="utf-8")) if not re.search(r"[A-Z]{4,}|/runs/", name)}
    assert sorted(name for name in named if not (ROOT / name).exists()) == []


def commands() -> Iterator[list[str]]:
    """Every `privbench ...` that stands in a code block or between backticks of a document."""
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        for found in re.findall(r"^ *(?:\S+/)?privbench ([a-z].*)$|`privbench ([a-z][^`\n]*)`", text, flags=re.MULTILINE):
            line = "".join(found).replace("...", "")
            yield shlex.split(line.partition(" #")[0])
        yield from (shlex.split(found) for found in re.findall(r"&& \S*/privbench ([a-z].*)$", text, flags=re.MULTILINE))


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_commands_in_documents_exist_with_their_options(words: list[str]) -> None:
    command = main.get_command(click.Context(main), words[0])
    assert command is not None
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in words if word.startswith("-")} <= known


@pytest.mark.parametrize(("folder", "registry"), [("attacks", ATTACKS), ("defenses", DEFENSES)])
def test_every_component_has_a_card_of_one_screen(folder: str, registry: Any) -> None:
    for name in registry.names():
        text = (ROOT / folder / "cards" / f"{name}.md").read_text(encoding="utf-8")
        assert text.startswith(f"# {name}\n")
        assert len(text.splitlines()) <= 45, f"{folder}/cards/{name}.md is longer than a screen; notes go to docs/research/"
        for preset in getattr(registry.get(name), "presets", {}):
            assert f"`{preset}`" in text, f"{folder}/cards/{name}.md does not say what preset {preset} is for"


def test_every_defense_is_in_the_table_of_adversaries() -> None:
    text = (ROOT / "docs" / "guide" / "adversaries.md").read_text(encoding="utf-8")
    assert [name for name in DEFENSES.names() if not re.search(rf"^\| `{name}` \|", text, flags=re.MULTILINE)] == []


def test_the_readme_is_read_in_one_go() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120
