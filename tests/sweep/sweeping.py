"""Whole sweeps as a user starts them, in processes that a test can kill, stop and count.

The processes are forked from one that has imported everything, so that dozens of them cost little.
"""

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch

from privbench.cli import main
from tests.runner.plugin.privbench_test_plugin import registered

PLUGIN = Path(__file__).parents[1] / "runner" / "plugin"

_MARK = "PRIVBENCH_TEST_MARK"


def _main(arguments: Sequence[str], where: str, environment: dict[str, str]) -> None:
    """The body of a process: the command line, with its output in two files."""
    os.chdir(where)
    os.environ.update(environment)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        os.dup2(os.open(f"{name}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    torch.set_num_threads(1)
    with registered():
        # Workers are no forks: they find the test attacks as a third party's.
        sys.path.insert(0, str(PLUGIN))
        main(list(arguments), prog_name="privbench")


class Sweep:
    """A `privbench sweep` that runs in a process of its own.

    Args:
        folder: Where it is started; the study file `study.yaml` and the results `out` lie there.
        arguments: After the study's name.
        environment: Variables that the process gets, its workers included.
    """

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(
            [
                "privbench.sweep.workers",
                "privbench.cli.sweep",
                "privbench.plots.case_pictures",
                "matplotlib.pyplot",
                "tests.sweep.sweeping",
            ]
        )
        self.folder = folder
        self.mark = f"{folder}-{time.monotonic_ns()}"
        # The output goes to files of its own: several sweeps may run in one folder.
        self._said = folder / f"said-{time.monotonic_ns()}"
        self._said.mkdir()
        words = ("sweep", str(folder / "study.yaml"), "--output", str(folder / "out"))
        fast = ("--no-download", "--device", "cpu", "--checkpoint-interval", "0")
        variables = {**environment, _MARK: self.mark, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}
        self.process: ForkServerProcess = context.Process(
            target=_main, args=((*words, *fast, *arguments), str(self._said), variables)
        )
        self.process.start()

    def __enter__(self) -> "Sweep":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.join()

    @property
    def stdout(self) -> str:
        return (self._said / "stdout.txt").read_text()

    @property
    def stderr(self) -> str:
        return (self._said / "stderr.txt").read_text()

    @property
    def running(self) -> bool:
        return self.process.is_alive()

    def finish(self, seconds: float = 300) -> int:
        """Waits for the end; the exit code."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, f"still running: {self.stdout} {self.stderr}"
        return self.process.exitcode

    def wait_for(self, condition: Callable[[], bool], seconds: float = 120) -> None:
        """Waits until something is so while the sweep runs."""
        began = time.monotonic()
        while not condition():
            assert self.running, (self.stdout, self.stderr)
            assert time.monotonic() - began < seconds, (self.stdout, self.stderr)
            time.sleep(0.01)

    def workers(self) -> list[int]:
        """Process numbers of the workers that are alive, found by a variable that they inherit."""
        found = []
        for folder in Path("/proc").iterdir():
            with suppress(OSError):
                if folder.name.isdecimal() and f"{_MARK}={self.mark}".encode() in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
        return found

    def wait_for_no_worker(self, seconds: float = 120) -> float:
        """Waits until no worker is left; how long that took."""
        began = time.monotonic()
        while self.workers():
            assert time.monotonic() - began < seconds, f"orphans: {self.workers()}"
            time.sleep(0.05)
        return time.monotonic() - began


def contents(output: Path) -> dict[str, bytes]:
    """Everything that lies in a results folder, records without what a clock, a machine or the way to a plug-in decides.

    A sweep with one worker has the tests' plug-in registered by hand, workers of their own find it by its entry point.
    """
    found = {str(path.relative_to(output)): path.read_bytes() for path in output.rglob("*") if path.is_file()}
    for name in found:
        if name.endswith("record.json"):
            record: dict[str, Any] = json.loads(found[name])
            del record["provenance"], record["plugins"]
            for image in record["images"]:
                del image["seconds"]
            found[name] = json.dumps(record).encode()
    return found
