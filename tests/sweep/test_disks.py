"""Disks that are full or cannot be written.

Whatever happens, the next sweep of the same study ends with what an undisturbed one writes.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from privbench.store.case_folder import CaseFolder
from privbench.sweep.status import CaseState, state_of
from privbench.sweep.work import SweepOptions, work
from tests.sweep.faults import Noting, Small, study
from tests.sweep.sweeping import PLUGIN, contents

_NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")


def mounts() -> bool:
    """Whether this user may mount a small file system of his own."""
    if shutil.which("unshare") is None:
        return False
    probe = ("sh", "-c", "d=$(mktemp -d) && mount -t tmpfs -o size=64k none $d && umount $d && rmdir $d")
    return subprocess.run([*_NAMESPACE, *probe], capture_output=True, check=False).returncode == 0


in_a_small_file_system = pytest.mark.skipif(not mounts(), reason="this system lets users mount nothing")

_FULL = """
mount -t tmpfs -o size=SIZE none out
"$@" >first.txt 2>&1; echo $? >>codes.txt
find out -name '.privbench-*' >leftovers.txt
mount -o remount,CHANGE out
"$@" >second.txt 2>&1; echo $? >>codes.txt
cp -r out/. kept
"""


def in_small_space(folder: Path, script: str, *arguments: str) -> list[int]:
    """Runs a script whose arguments are the command line of a sweep; what both sweeps ended with."""
    study(folder)
    (folder / "out").mkdir()
    command = [sys.executable, "-m", "privbench", "sweep", "study.yaml", "--output", "out", "--device", "cpu"]
    fast = ("--no-download", "--checkpoint-interval", "0")
    path = os.pathsep.join([str(Path(__file__).parents[2]), str(PLUGIN)])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    words = [*_NAMESPACE, "sh", "-c", script, "sh", *command, *fast, *arguments]
    subprocess.run(words, cwd=folder, env=environment, check=True, timeout=900)
    return [int(code) for code in (folder / "codes.txt").read_text().split()]


@in_a_small_file_system
@pytest.mark.nightly
@pytest.mark.parametrize(
    ("size", "jobs"),
    [
        pytest.param("120k", 1, id="one worker"),
        pytest.param("16k", 1, id="from the beginning"),
        pytest.param("120k", 2, id="two workers"),
    ],
)
def test_a_full_disk_is_one_line_and_the_sweep_goes_on_when_there_is_space(
    size: str, jobs: int, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    script = _FULL.replace("SIZE", size).replace("CHANGE", "size=20m")
    codes = in_small_space(tmp_path, script, "--jobs", str(jobs))
    said = (tmp_path / "first.txt").read_text()
    assert codes == [2, 0], said
    errors = [line for line in said.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    assert "No space left on device; free the place or choose another --output" in errors[0]
    assert "Traceback" not in said
    assert (tmp_path / "leftovers.txt").read_text() == ""
    assert contents(tmp_path / "kept") == undisturbed


@in_a_small_file_system
@pytest.mark.nightly
def test_a_read_only_folder_is_one_line_and_the_sweep_goes_on_when_it_can_be_written(
    undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    script = _FULL.replace("size=SIZE none out", "size=20m none out; mount -o remount,ro out").replace("CHANGE", "rw")
    codes = in_small_space(tmp_path, script)
    said = (tmp_path / "first.txt").read_text()
    assert codes == [2, 0], said
    assert said == "Error: cannot write to out: out is read-only; choose another --output\n"
    assert contents(tmp_path / "kept") == undisturbed


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_read_only_case_stops_the_sweep_and_is_no_failed_case(small_case: Small, options: SweepOptions) -> None:
    case = small_case()
    folder = options.store.working / case.folder
    folder.mkdir(parents=True)
    folder.chmod(0o555)
    with pytest.raises(ValueError, match="Permission denied; free the place or choose another --output"):
        work([case], options, Noting())
    folder.chmod(0o755)
    work([case], options, Noting())
    assert state_of(CaseFolder(options.store.working, case))[0] is CaseState.DONE
