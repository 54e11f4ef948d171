"""`privbench claims`: the command, and the committed study from its first case to a page of verdicts, cut down."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Cli = Callable[..., Result]

RESULTS = Path(__file__).parents[2] / "results"
DEFINITIONS = """
commands: [privbench run --defense none]
claims:
  - id: shuffling-protects
    text: Shuffling protects.
    source: a test
    limits: Two photos and a random walk.
    comparisons:
      - name: a walk on both
        metric: psnr
        higher: &walk {attack: test-walk, model: test-vit, weights: random, data: photos}
        lower: {<<: *walk, defense: naive-shuffle}
"""


def test_claims_are_judged_by_what_was_run(small_run: Cli, privbench: Cli, tmp_path: Path) -> None:
    Path("claims.yaml").write_text(DEFINITIONS, encoding="utf-8")
    small_run("--defense", "none,naive-shuffle")
    answer = privbench("claims", "claims.yaml", "out", "-o", "page/claims.md")
    assert answer.exit_code == 0, answer.output
    assert answer.stdout.splitlines()[0].split() == ["inconclusive", "shuffling-protects"]
    assert answer.stdout.splitlines()[1] == "1 claims -> page/claims.md"
    page = (tmp_path / "page" / "claims.md").read_text(encoding="utf-8")
    assert "**inconclusive** (only 2 of at least 16 images)" in page
    command, _ = re.findall(r"^privbench (run --config .*)$", page, flags=re.MULTILINE)
    again = privbench(*command.split(), "--dry-run")
    assert again.exit_code == 0, again.output
    assert Path(command.split()[-1]).name in again.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("claims.yaml",), "Missing argument"),
        (("claims.yaml", "nowhere"), "there is no folder nowhere"),
        (("absent.yaml", "."), "cannot read the claims absent.yaml"),
        (("claims.yaml", ".", "-o", "."), "it is a folder"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(privbench: Cli, tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    (tmp_path / "claims.yaml").write_text(DEFINITIONS, encoding="utf-8")
    answer = privbench("claims", *arguments)
    assert answer.exit_code == 2
    assert words in answer.stderr


def shortened(text: str) -> str:
    """The same with two steps of every optimisation."""
    changed, count = re.subn(r"steps(=|: )600", r"steps\g<1>2", text)
    assert count
    assert not re.search(r"\b600\b(?! steps)", changed)
    return changed.replace("- attack: gradvit\n    adversary", "- attack: gradvit\n    attack.steps: 2\n    adversary")


@pytest.mark.nightly
def test_the_committed_study_runs_cut_down_and_leaves_no_claim_of_it_unmeasured(
    privbench: Cli, tmp_path: Path, shared_data: Path
) -> None:
    (tmp_path / "cifar10").symlink_to(shared_data / "cifar10")
    for name, source in (("study.yaml", "studies/claims.yaml"), ("claims.yaml", "claims.yaml")):
        (tmp_path / name).write_text(shortened((RESULTS / source).read_text(encoding="utf-8")), encoding="utf-8")
    fast = ("--limit", "2", "--output", "out", "--no-download", "--device", "cpu", "--compile", "off")
    answer = privbench("sweep", "study.yaml", *fast)
    assert answer.exit_code == 0, answer.output
    answer = privbench("claims", "claims.yaml", "out")
    assert answer.exit_code == 0, answer.output
    page = (tmp_path / "claims.md").read_text(encoding="utf-8")
    assert "holds**" not in page
    # All but what needs victims that `make victims` trains.
    missing = re.findall(r"no record of relocation-matching:steps=2 on ([^;)|]*)", page)
    assert [side for side in missing if ".safetensors" not in side] == []
    assert "no record of inverting-gradients" not in page
    verdicts = dict(line.rsplit(maxsplit=1)[::-1] for line in answer.stdout.splitlines()[:-1])
    assert verdicts["the-schedule-beats-constant-weights"].strip() == "inconclusive"
    assert "only 2 of at least 16 images" in page
