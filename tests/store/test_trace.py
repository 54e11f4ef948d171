"""The loss trace: what was reported reads back as the mean over client batches."""

from pathlib import Path

import pytest
import torch

from privbench.core import UserError
from privbench.store.trace import mean_trace, scored_trace, trace_csv


def test_losses_are_means_over_the_batches_that_reported_them(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    first = [(1, "early", {"a": 1.0}), (2, "late", {"a": 0.5, "b": 4.0})]
    second = [(1, "early", {"a": 3.0}), (2, "late", {"a": float("inf")}), (3, "late", {"a": 0.1})]
    path.write_text(trace_csv([first, second]), encoding="utf-8")
    found = mean_trace(path)
    assert list(found.index) == [1, 2, 3]
    assert list(found["phase"]) == ["early", "late", "late"]
    assert list(found["a"]) == [2.0, 0.5, 0.1]
    assert found["b"].dropna().to_dict() == {2: 4.0}


def test_shown_guesses_are_scored_where_they_were_shown_each_paired_anew() -> None:
    truth = torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)])
    off = (truth * 255).round().to(torch.uint8).flip(0)
    off[0, :, 0, 0] = 204
    reported = [(10, "early", {"a": 1.0}), (20, "late", {"a": 0.5}), (30, "late", {"a": 0.1})]
    rows = scored_trace(reported, {10: off, 30: off.flip(0)}, truth)
    # One of 64 pixels is off by a fifth in one of two images, the other is exact: (10 log10(64 / 0.04) + 150) / 2.
    expected = pytest.approx((32.0412 + 150) / 2, abs=1e-3)
    assert rows == ((10, "early", {"a": 1.0, "psnr": expected}), reported[1], (30, "late", {"a": 0.1, "psnr": expected}))
    assert reported[0] == (10, "early", {"a": 1.0})


def test_an_attack_without_reports_has_an_empty_trace(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(trace_csv([[], []]), encoding="utf-8")
    assert mean_trace(path).empty


@pytest.mark.parametrize(
    "content", ["", "step,phase\n1,a\n", "batch,step,phase,a\n0,1,x,high\n", "batch,step,phase\n0,one,x\n"]
)
def test_what_is_no_trace_is_refused_by_name(content: str, tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"cannot read the loss trace .*trace\.csv"):
        mean_trace(path)
