"""The GPU visit, on the CPU: every part writes what it measured, and a failing part does not stop the next."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu


@pytest.mark.nightly
def test_every_part_writes_its_file_and_all_ways_agree(tmp_path: Path) -> None:
    plan = gpu.Plan(torch.device("cpu"), models={"vit_mini_patch4_32": (1,)}, groups=(1, 2), steps=20)
    gpu.run_parts(plan, tmp_path)
    written = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    assert set(written) == {"correctness", "speed", "quality"}
    # Rounding grows from step to step; another objective would part by tenths.
    assert all(row["largest difference"] < 5e-3 for row in written["correctness"]["rows"])
    ways = {(row["way"], row["victims"]) for row in written["speed"]["rows"] if "way" in row}
    assert ways == {("plain double backward", 1), *((f"ours, {one}", n) for one in ("eager", "compiled") for n in (1, 2))}
    assert all(0 < row["share of float32 peak"] < 1 for row in written["speed"]["rows"] if "way" in row)


def test_a_part_that_fails_is_written_and_the_next_one_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise ValueError("no such kernel")

    def works(plan: gpu.Plan, add: Any, left: Any) -> None:
        add({"left": left() > 0})

    monkeypatch.setattr(gpu, "_PARTS", {"first": fails, "second": works})
    gpu.run_parts(gpu.Plan(torch.device("cpu")), tmp_path)
    assert "no such kernel" in json.loads((tmp_path / "first.json").read_text())["rows"][0]["error"]
    assert json.loads((tmp_path / "second.json").read_text())["rows"] == [{"left": True}]


def test_nothing_begins_after_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def works(plan: gpu.Plan, add: Any, left: Any) -> None:
        add({"began": True})

    monkeypatch.setattr(gpu, "_PARTS", {"only": works})
    gpu.run_parts(gpu.Plan(torch.device("cpu"), budget=0.0), tmp_path)
    assert json.loads((tmp_path / "only.json").read_text())["rows"] == [{"left out": "the budget is spent"}]
