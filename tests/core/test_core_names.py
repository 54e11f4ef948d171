"""The vocabulary is imported name by name: who reads results does not wait for torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import privbench.core

ROOT = Path(__file__).parents[2]
PACK = "results/mixing.jsonl.gz"


def test_every_name_is_found_where_the_type_checker_finds_it() -> None:
    tree = ast.parse((ROOT / "privbench" / "core" / "__init__.py").read_text(encoding="utf-8"))
    imported = {
        name.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("privbench.")
        for name in node.names
    }
    assert {name: f"privbench.core.{module}" for name, module in privbench.core._MODULES.items()} == imported
    assert set(privbench.core.__all__) == set(imported)
    for name in imported:
        assert getattr(privbench.core, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        getattr(privbench.core, "Nothing")  # noqa: B009 (a type checker would refuse the plain way)


@pytest.mark.parametrize(
    "arguments",
    [
        ("status", PACK),
        ("leaderboard", PACK, "-o", "{folder}/a.csv"),
        ("pack", PACK, "-o", "{folder}/b.jsonl.gz"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_reading_results_imports_no_torch(arguments: tuple[str, ...], tmp_path: Path) -> None:
    words = [word.format(folder=tmp_path) for word in arguments]
    lines = (
        "import sys",
        "from privbench.cli import main",
        f"main({words!r}, standalone_mode=False)",
        "assert 'torch' not in sys.modules",
    )
    subprocess.run([sys.executable, "-c", "; ".join(lines)], cwd=ROOT, check=True, capture_output=True, timeout=120)
