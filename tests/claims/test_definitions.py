"""Definitions of claims: one line for what is wrong with them, their page, and the studies of the committed ones."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from privbench.claims.hypotheses import Comparison, ResolvedSide, read_hypotheses
from privbench.claims.page import write_claims
from privbench.core import (
    Record,
    UserError,
)
from privbench.store.files import atomic_write
from privbench.store.layout import find_records
from privbench.store.places import local_folder, store_at
from privbench.sweep.study import read_study
from tests.claims.judging import RESULTS, SHUFFLED, UNDEFENDED, Make, spread

# Files


GOOD: dict[str, Any] = {
    "commands": ["privbench run"],
    "claims": [
        {
            "id": "a",
            "text": "A | B",
            "source": "S",
            "limits": "L",
            "comparisons": [
                {"name": "first", "metric": "psnr", "margin": 6, "ceiling": 40, "higher": UNDEFENDED, "lower": SHUFFLED}
            ],
        },
        {"id": "b", "text": "B", "source": "S", "limits": "L", "unmeasured": "nobody can"},
    ],
}


def written(folder: Path, content: Any) -> Path:
    path = folder / "claims.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return path


def changed(*keys: str | int, to: Any) -> dict[str, Any]:
    """The good file with one entry changed."""
    content: dict[str, Any] = yaml.safe_load(yaml.safe_dump(GOOD))
    place: Any = content
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = to
    return content


FIRST = ("claims", 0, "comparisons", 0)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("- a\n", ["holds no claims", "commands, claims"]),
        ("claims: [", ["cannot read the claims"]),
        (changed("claims", to=[]), ["claims"]),
        (changed("claims", 0, "extra", to=1), ["extra"]),
        (changed("claims", 0, "id", to="A b"), ["id", "A b"]),
        (changed("claims", 1, "id", to="a"), ["two claims have the id a"]),
        (changed("claims", 0, "comparisons", to=[]), ["claim a needs comparisons, or else the reason"]),
        (changed("claims", 0, "unmeasured", to="x"), ["claim a needs comparisons, or else the reason"]),
        (changed(*FIRST, "metric", to="psnrr"), ["unknown metric 'psnrr'", "did you mean psnr"]),
        (
            changed(*FIRST, "metric", to="utility.acuracy"),
            ["unknown measure of a utility report 'acuracy'", "did you mean accuracy"],
        ),
        (changed(*FIRST, "metric", to="utility.accuracy"), ["utility.accuracy is of utility reports, which have no attack"]),
        (changed(*FIRST, "higher", to={}), ["psnr is of attacks; name the attack of both sides"]),
        (changed(*FIRST, "lower", to={**SHUFFLED, "weights": "any"}), ["psnr is of attacks on one victim; name its weights"]),
        (changed(*FIRST, "by_sign", to=True), ["by_sign is for utility reports"]),
        (changed(*FIRST, "uninformed", to=2.0), ["uninformed is for utility reports"]),
        (changed(*FIRST, "attacker", to="unaware"), ["the attacker is unaware and neither side has such an adversary"]),
        (changed(*FIRST, "attacker", to="clever"), ["attacker", "'unaware' or 'aware'"]),
        (changed(*FIRST, "margin", to="six"), ["margin", "'six'"]),
        (changed(*FIRST, "lower", to={**SHUFFLED, "attack": "closed"}), ["claim a, first", "unknown attack 'closed'"]),
        (changed(*FIRST, "lower", to={**SHUFFLED, "attack": "gradvit:stepz=3"}), ["claim a, first", "stepz"]),
        (changed(*FIRST, "lower", to={**SHUFFLED, "defense": "mjp:ratio=1"}), ["claim a, first", "ratio"]),
        (changed("claims", 0, "comparisons", to=[GOOD["claims"][0]["comparisons"][0]] * 2), ["two comparisons of one name"]),
    ],
)
def test_what_is_wrong_with_definitions_is_said_in_one_line(tmp_path: Path, content: Any, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        read_hypotheses(written(tmp_path, content))
    assert "\n" not in str(caught.value)
    assert [word for word in words if word not in str(caught.value)] == []


def test_a_page_has_every_claim_its_numbers_and_commands_and_equal_bytes(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    definitions = written(Path(), GOOD)
    for name, record in (make(spread(130)), make(spread(20, 0), defense="naive-shuffle")):
        atomic_write(Path(name, "record.json"), record.to_json().encode())
    write_claims(definitions, [store_at("runs")], Path("claims.md"))
    page = Path("claims.md").read_text(encoding="utf-8")
    assert "made by `privbench claims claims.yaml runs -o claims.md`" in page
    # Claim and verdict first, a line each; what they rest on, and within what limits, below.
    head, _, below = page.partition("\n## ")
    assert head.splitlines()[2:6] == [
        "| claim | verdict |",
        "|---|---|",
        "| [A \\| B](#a) | **holds** |",
        "| [B](#b) | **not measured** (nobody can) |",
    ]
    assert "**Verdict.** **holds**. Deciding comparison: first, +20.0 dB [+20.0, +20.0], n = 16." in below
    assert below.index("first: psnr") < below.index("**Limits.** L") < below.index("## b\n")
    assert below.index("## How a verdict is made") > below.index("## b\n")
    assert (
        "psnr, at most 40.0 dB counted | none, aware by closed-form: 40.0 dB | naive-shuffle, aware by closed-form: 20.0 dB"
        in page
    )
    assert page.count("privbench run --config runs/") == 2
    # A record that lies in two folders is one.
    write_claims(definitions, [store_at("runs"), store_at("runs")], Path("again.md"))
    again = Path("again.md").read_text(encoding="utf-8")
    assert again.replace("yaml runs runs -o again", "yaml runs -o claims") == page


def test_a_folder_that_is_not_there_and_a_changed_record_are_refused(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    definitions = written(Path(), GOOD)
    with pytest.raises(UserError, match="there is no folder runs"):
        write_claims(definitions, [store_at("runs")], Path("claims.md"))
    name, record = make(spread(30))
    atomic_write(Path(name, "record.json"), record.model_copy(update={"case_id": "0" * 12}).to_json().encode())
    with pytest.raises(UserError, match="was changed"):
        write_claims(definitions, [store_at("runs")], Path("claims.md"))
    assert not Path("claims.md").exists()


# The committed claims


@pytest.mark.integration
def test_every_record_that_a_claim_asks_for_is_a_case_of_a_committed_study(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("cifar10", "imagenet-val", "weights"):
        Path(name).symlink_to(shared_data / name)
    paths = sorted((RESULTS / "studies").glob("*.yaml"))
    # Victims that are trained first: a case asks for the file, its content is not read before it is run.
    trained = re.compile(r"(?:results/runs|checkpoints)/\S+\.safetensors")
    for found in {name for path in paths for name in trained.findall(path.read_text(encoding="utf-8"))}:
        Path(found).parent.mkdir(parents=True, exist_ok=True)
        save_file({"anything": torch.zeros(1)}, found)
    studies = [read_study(path) for path in paths]
    template = Record.load(find_records(local_folder(RESULTS / "front.jsonl.gz"))[0])
    records = [template.model_copy(update={"case": case}) for study in studies for case in study.cases]
    file = read_hypotheses(RESULTS / "claims.yaml")
    sides = {
        side
        for hypothesis in file.claims
        for comparison in hypothesis.comparisons
        if isinstance(comparison, Comparison) and comparison.measure is None
        for side in (comparison.higher, comparison.lower)
    }
    wanted = [ResolvedSide.of(side) for side in sides]
    missing = [
        (one.side.text, attack)
        for one, attack in ((one, attack) for one in wanted for attack in one.attacks)
        if not any(one.is_case_of(record, attack) for record in records)
    ]
    assert missing == []
