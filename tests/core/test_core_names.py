"""Names are imported one by one, and components read without importing them: who reads results does not wait for torch."""

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest

from privbench.core import ATTACKS, DEFENSES, METRICS, MODELS, SERVERS, Defense, Registry
from privbench.core.declared import Declared, declared

ROOT = Path(__file__).parents[2]
PACK = "results/mixtures.jsonl.gz"
CASE = "cc5e2f24fa1c"


@pytest.mark.parametrize("room", ["core", "data", "models", "scoring"])
def test_every_name_is_found_where_the_type_checker_finds_it(room: str) -> None:
    package = importlib.import_module(f"privbench.{room}")
    tree = ast.parse((ROOT / "privbench" / room / "__init__.py").read_text(encoding="utf-8"))
    imported = {
        name.name: node.module
        for block in tree.body
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    found = {name: f"privbench.{room}.{module}" for module, names in package._NAMES.items() for name in names}
    assert imported
    assert found == imported
    assert set(package.__all__) == {*imported, *(["BUILT_IN"] if hasattr(package, "BUILT_IN") else [])}
    assert imported.keys() <= set(dir(package))
    for name in imported:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        getattr(package, "Nothing")  # noqa: B009 (a type checker would refuse the plain way)


@pytest.mark.parametrize("registry", [ATTACKS, DEFENSES, SERVERS], ids=lambda registry: registry.kind)
def test_the_source_of_a_component_says_what_the_class_says(registry: Registry) -> None:
    for name in registry.names():
        component = registry.get(name)
        said = declared(registry.origin(name))
        assert said is not None, f"{name} is imported where its source should do"
        assert said.summary == component.__doc__.partition("\n")[0]
        required = {key: info.default for key, info in component.model_fields.items() if not info.is_required()}
        assert dict(said.values) == required
        assert registry.declared(name) == said


@pytest.mark.parametrize("registry", [METRICS, MODELS], ids=lambda registry: registry.kind)
def test_the_source_of_an_object_says_its_summary(registry: Registry) -> None:
    # Another test may have registered a module of a user's.
    for name in filter(registry.is_built_in, registry.names()):
        said = declared(registry.origin(name))
        assert said is not None
        assert said.summary == registry.get(name).summary


def test_what_the_source_does_not_tell_is_asked_of_the_component() -> None:
    class Computed(Defense):
        """Summary.

        More.
        """

        name: ClassVar[str] = "computed"
        rate: float = sum([0.25, 0.25])

        def guarantee(self) -> str:
            return ""

    DEFENSES.register("computed", Computed)
    try:
        assert DEFENSES.declared("computed") == Declared("Summary.", {"rate": 0.5})
    finally:
        DEFENSES.unregister("computed")
    assert declared("privbench.core.defense:Nothing") is None


@pytest.mark.integration
@pytest.mark.parametrize(
    "arguments",
    [
        ("status", PACK),
        ("leaderboard", PACK, "-o", "{folder}/a.csv"),
        ("leaderboard", PACK, "-o", "{folder}/a.md"),
        ("pack", PACK, "-o", "{folder}/b.jsonl.gz"),
        ("show", CASE, "--output", PACK),
        *(("list", kind) for kind in ("attacks", "ensembles", "defenses", "models", "metrics", "datasets")),
    ],
    ids=" ".join,
)
def test_reading_results_and_listing_import_no_torch(arguments: tuple[str, ...], tmp_path: Path) -> None:
    words = [word.format(folder=tmp_path) for word in arguments]
    lines = (
        "import sys",
        "from privbench.cli import main",
        f"main({words!r}, standalone_mode=False)",
        "assert 'torch' not in sys.modules",
    )
    subprocess.run([sys.executable, "-c", "; ".join(lines)], cwd=ROOT, check=True, capture_output=True, timeout=120)


@pytest.mark.integration
def test_a_case_is_resolved_without_what_only_attacks_need(tmp_path: Path) -> None:
    code = (
        f"import os, sys; os.chdir({str(tmp_path)!r}); from privbench.cli import main; "
        "main(['run', '--defense', 'none,mjp', '--dry-run'], standalone_mode=False); "
        "slow = {'timm', 'torchvision', 'pandas', 'matplotlib', 'scipy.stats', 'torch._dynamo'} & sys.modules.keys(); "
        "assert not slow, slow"
    )
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, timeout=120)
