"""The command that a page of claims names for a utility report measures the same again."""

import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from privbench.claims.evidence import Evidence
from privbench.claims.hypotheses import HypothesesFile
from privbench.claims.page import claims_page
from privbench.claims.verdicts import judge
from privbench.cli import main
from privbench.core import Training, UtilityReport, build_defense, resolve_defense
from privbench.models import load_victim, resolve_victim
from tests.claims.judging import hypothesis


def commands_of(*reports: UtilityReport) -> list[str]:
    """The lines of a claim that compares the accuracy of two victims."""
    sides = {("+".join(map(str, one.defense)), one.victim.weights): one for one in reports}
    higher, lower = (
        {"defense": name, "weights": weights, "data": Path(one.dataset).name, "seed": one.seed}
        for (name, weights), one in sides.items()
    )
    claim = hypothesis({"metric": "utility.accuracy", "higher": higher, "lower": lower})
    evidence = Evidence((), (), tuple((f"utility--{number}.json", one) for number, one in enumerate(reports)))
    page = claims_page(HypothesesFile(claims=(claim,)), [judge(claim, evidence)], evidence, "privbench claims")
    return [line for line in page.splitlines() if line.startswith("privbench evaluate")]


@pytest.mark.integration
@pytest.mark.parametrize(
    "asked",
    [
        "--measure accuracy --draws 2",
        "--measure jigsaw,attacks --jigsaw naive-shuffle --epsilon 0.05 --draws 2 --limit 3 --seed 3",
    ],
)
def test_a_reports_command_measures_it_again(asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    np.savez("made.npz", images=random.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8), labels=np.arange(4, 10))
    none = build_defense(resolve_defense("none"))
    spec = resolve_victim("vit_mini_patch4_32", "embedded", none)
    save_file(load_victim(spec, none, generator=torch.Generator()).state_dict(), "own.safetensors")

    def evaluated(*arguments: str) -> UtilityReport:
        output = tmp_path / f"out-{len(list(tmp_path.glob('out-*')))}"
        answer = CliRunner().invoke(main, ["evaluate", "--device", "cpu", "--output", str(output), *arguments])
        assert answer.exit_code == 0, answer.output
        (path,) = output.iterdir()
        return UtilityReport.load(path)

    common = ["--weights", "own.safetensors", "--data", "made.npz", *asked.split()]
    reports = [evaluated("--defense", defense, *common) for defense in ("stochastic-layers", "none")]
    lines = commands_of(*reports)
    assert len(lines) == len(reports)
    for line, report in zip(lines, reports, strict=True):
        arguments = shlex.split(line.replace(f"--data {report.dataset} ", "--data made.npz "), comments=True)
        assert evaluated(*arguments[2:]) == report


def test_victims_of_several_seeds_are_told_apart(utility: UtilityReport) -> None:
    def victim(sha256: str, seed: int, defense: str) -> UtilityReport:
        training = Training(defense=defense, dataset="cifar10", epochs=4, recipe={"seed": seed})
        spec = utility.victim.model_copy(update={"weights": "own.safetensors", "weights_sha256": sha256})
        return utility.model_copy(update={"victim": spec, "training": training, "defense": resolve_defense(defense)})

    reports = [
        victim(mark * 64, seed, defense)
        for defense, marks in (("none", "ab"), ("mjp", "cd"))
        for seed, mark in enumerate(marks)
    ]
    ends = [line.partition("  # ")[2] for line in commands_of(*reports)]
    assert ends == [
        f"weights of SHA-256 {mark * 12}, trained for 4 epochs with seed {seed}"
        for mark, seed in zip("abcd", (0, 1, 0, 1), strict=True)
    ]
