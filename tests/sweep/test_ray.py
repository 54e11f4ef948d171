"""The Ray launcher on a real cluster of two nodes on this machine."""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from privbench.analysis.leaderboard import leaderboard, leaderboard_csv
from tests.sweep.sweeping import PLUGIN, Sweep, contents

cluster_utils = pytest.importorskip("ray.cluster_utils", reason="Ray is not installed", exc_type=ImportError)

pytestmark = [pytest.mark.nightly, pytest.mark.filterwarnings("ignore")]

STUDY = """
name: faults
settings: {attack: test-walk, model: test-vit, weights: random, limit: 1, attack.steps: 60, attack.pause: 0.05}
grid:
  - {defense: [none, mjp], seed: [0, 1, 2, 3]}
"""

LETHAL = """
name: lethal
settings: {model: test-vit, weights: random, limit: 1, defense: none}
grid:
  - {attack: test-failing, attack.how: kill}
  - {attack: test-walk, seed: [0, 1, 2]}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "study.yaml").write_text(STUDY, encoding="utf-8")
    return tmp_path


@pytest.fixture
def cluster(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Two nodes of one CPU and a cache each; what they compute is logged. They know nothing of this tree's place."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PRIVBENCH_TEST_LOG", str(folder / "log.txt"))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    small = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
    first, second = ({"env_vars": {"XDG_CACHE_HOME": str(folder / f"node-{number}")}, **small} for number in (1, 2))
    made = cluster_utils.Cluster(initialize_head=True, connect=False, head_node_args={"include_dashboard": False, **first})
    made.add_node(**second)
    yield made
    made.shutdown()


def sweep(folder: Path, cluster: Any, *arguments: str) -> Sweep:
    path = os.pathsep.join([str(Path(__file__).parents[2]), str(PLUGIN)])
    return Sweep(folder, "--launcher", "ray", "--address", cluster.address, *arguments, PYTHONPATH=path)


def board(output: Path) -> str:
    """The leaderboard without what a clock decides."""
    return leaderboard_csv(leaderboard(output).drop(columns="seconds_per_image"))


def test_a_node_that_dies_loses_and_repeats_nothing(
    folder: Path, cluster: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with sweep(folder, cluster) as running:
        running.wait_for(lambda: len(list((folder / "out").glob("*/.work/*.pt"))) == 2)
        (node,) = cluster.worker_nodes
        cluster.remove_node(node, allow_graceful=False)
        code = running.finish()
        assert code == 0, (running.stdout, running.stderr)
    assert running.stdout.splitlines()[0] == f"8 of 8 cases done; {folder / 'out'}"
    assert "a Ray task ended (its node died); another one takes its place" in running.stderr
    runs = Counter(line.split()[0] for line in (folder / "log.txt").read_text().splitlines())
    assert runs == {"begun": 8, "continued": 1}

    local = tmp_path_factory.mktemp("local")
    (local / "study.yaml").write_text(STUDY, encoding="utf-8")
    with Sweep(local) as undisturbed:
        assert undisturbed.finish() == 0
    assert board(folder / "out") == board(local / "out")
    assert contents(folder / "out") == contents(local / "out")


def test_nodes_that_share_nothing_but_a_url_take_over_from_one_that_dies(
    folder: Path, cluster: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    there = folder / "there" / "runs"
    with sweep(folder, cluster, "--output", f"file://{there}") as running:
        # Both nodes have a checkpoint of the case that they compute.
        running.wait_for(lambda: len(list(folder.glob("node-*/privbench/url-*/*/.work/*.pt"))) == 2)
        (node,) = cluster.worker_nodes
        cluster.remove_node(node, allow_graceful=False)
        code = running.finish()
        assert code == 0, (running.stdout, running.stderr)
    assert running.stdout.splitlines()[0] == f"8 of 8 cases done; file://{there}"
    assert "a Ray task ended (its node died); another one takes its place" in running.stderr
    runs = Counter(line.split()[0] for line in (folder / "log.txt").read_text().splitlines())
    # The case of the node that died begins anew: its checkpoint is gone with its working folder.
    assert runs == {"begun": 9}

    local = tmp_path_factory.mktemp("local")
    (local / "study.yaml").write_text(STUDY, encoding="utf-8")
    with Sweep(local) as undisturbed:
        assert undisturbed.finish() == 0
    assert contents(there) == contents(local / "out")


def test_a_stop_saves_and_the_local_launcher_continues(folder: Path, cluster: Any) -> None:
    with sweep(folder, cluster) as running:
        running.wait_for(lambda: len(list((folder / "out").glob("*/.work/*.pt"))) == 2)
        os.kill(running.process.pid or 0, signal.SIGINT)
        assert running.finish(120) == 130, (running.stdout, running.stderr)
        assert "interrupted; repeat the command to continue" in running.stdout
    assert not list((folder / "out").rglob(".lock"))
    with Sweep(folder, PRIVBENCH_TEST_LOG=str(folder / "log.txt")) as running:
        assert running.finish() == 0
    runs = Counter(line.split()[0] for line in (folder / "log.txt").read_text().splitlines())
    assert runs == {"begun": 8, "continued": 2}


def test_a_case_that_ends_its_process_twice_has_failed_and_the_others_go_on(folder: Path, cluster: Any) -> None:
    (folder / "study.yaml").write_text(LETHAL, encoding="utf-8")
    with sweep(folder, cluster) as running:
        code = running.finish()
    assert code == 1, (running.stdout, running.stderr)
    assert "its process ended twice (WorkerCrashedError); is the memory too small for this case?" in running.stdout
    assert "3 of 4 cases done, 1 failed" in running.stdout
