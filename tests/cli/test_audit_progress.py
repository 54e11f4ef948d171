"""The progress of an audit in files and pipes: a line every ten seconds, with the time that is left."""

import io
import time

import pytest
from rich.console import Console

from privbench.cli.audit_progress import AuditLine


def test_a_line_every_ten_seconds_says_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    out = io.StringIO()
    with AuditLine(Console(file=out, width=40)) as line:
        for second in range(25):
            now[0] = float(second)
            line.step("adjoint-matching, self-test", second, 100, float("nan") if second < 15 else 75.0)
    assert out.getvalue().splitlines() == [
        "adjoint-matching, self-test: 10/100",
        "adjoint-matching, self-test: 20/100, 1:15 left",
    ]
