"""A missing package is said before the work begins, in one line with the remedy."""

import importlib.util
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from click.testing import Result


@pytest.mark.parametrize(
    ("package", "arguments", "words"),
    [
        ("foolbox", ("evaluate", "--data", "nowhere"), "measuring utility needs foolbox; install it with pip install"),
        ("sklearn", ("evaluate", "--measure", "accuracy", "--data", "nowhere"), "needs sklearn; install it with pip install"),
        ("tensorboard", ("run", "--log", "tensorboard"), "--log tensorboard needs tensorboard; install it with pip install"),
        ("wandb", ("train", "--log", "wandb", "--data", "nowhere"), "pip install 'privbench[wandb]'"),
        ("mlflow", ("sweep", "study.yaml", "--log", "mlflow"), "pip install 'privbench[mlflow]'"),
        ("ray", ("sweep", "nowhere.yaml", "--launcher", "ray"), "--launcher ray needs ray; install it with pip install"),
    ],
)
def test_a_missing_package_is_said_before_anything_is_read(
    package: str,
    arguments: tuple[str, ...],
    words: str,
    privbench: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    whole = importlib.util.find_spec

    def without(name: str, *rest: str | None) -> ModuleSpec | None:
        return None if name == package else whole(name, *rest)

    monkeypatch.setattr("privbench.core.packages.find_spec", without)
    monkeypatch.delitem(sys.modules, package, raising=False)
    answer = privbench(*arguments)
    assert answer.exit_code == 2
    assert words in answer.stderr
    assert len(answer.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
