"""Evidence and verdicts: other photos are the measure, and an attack that misleads itself on a known photo is not believed."""

from dataclasses import replace

import pytest
import torch

from privbench.adversary import simulate
from privbench.auditing import Evidence, evidence_of
from privbench.auditing.findings import AttackFinding
from privbench.auditing.known import KnownPhotos
from privbench.auditing.verdicts import best_of, judged
from privbench.auditing.work import came_back
from privbench.client import observe
from privbench.core import LocalTraining, Reconstruction, ThreatModel, build_defense, resolve_defense
from privbench.data import open_images
from privbench.models import load_victim, resolve_victim
from privbench.replay import Agreement
from tests.conformance import some_images
from tests.test_client_training import client_that_trains


@pytest.mark.parametrize(
    ("explained", "cosine", "others", "grade"),
    [
        (0.97, 0.99, (0.0, 0.15), "found"),
        (0.87, 0.94, (0.0, 0.19), "found"),  # 36.6 dB at 224 pixels
        (0.11, 0.69, (0.0, 0.17), "partly"),  # the photo with 3 % noise
        (-2.4, 0.14, (0.0, 0.17), "nothing"),
        (0.74, 0.92, (0.74, 0.92), "nothing"),  # another photo, on a model at random weights
        (0.94, 0.98, (0.74, 0.92), "partly"),
    ],
)
def test_images_are_graded_by_what_other_photos_reach(
    explained: float, cosine: float, others: tuple[float, float], grade: str
) -> None:
    assert Evidence(Agreement(explained, cosine), Agreement(*others)).grade == grade


@pytest.mark.parametrize("weights", ["random", "embedded"])
def test_another_photo_is_no_evidence_and_the_true_one_is(weights: str) -> None:
    none = resolve_defense("none")
    defense = build_defense(none)
    spec = resolve_victim("vit_mini_patch4_32", weights, defense)
    victim = load_victim(spec, defense, generator=torch.Generator().manual_seed(0))
    images, labels = some_images(4), torch.tensor([3])
    observation, _ = observe(
        victim,
        spec.model,
        defense,
        images[:1],
        labels,
        declared=none,
        threat_model=ThreatModel(),
        generator=torch.Generator().manual_seed(0),
    )
    simulation, others = simulate(observation), [images[2:3], images[3:4]]
    grades = [evidence_of(observation, simulation, Reconstruction(one[None]), others)[1].grade for one in images[:2]]
    assert grades == ["found", "nothing"]


def _finding(name: str, grade: str, self_test: float, self_test_grade: str) -> AttackFinding:
    return AttackFinding(
        name,
        "ran",
        explained=0.95 if grade == "found" else -1.0,
        grade=grade,  # type: ignore[arg-type]
        self_test=self_test,
        self_test_plain=12.0,
        self_test_grade=self_test_grade,  # type: ignore[arg-type]
    )


def test_who_accounts_for_a_known_photo_without_showing_it_is_not_believed() -> None:
    misled = _finding("inverting-gradients", "found", 9.0, "found")
    verdict, sentence = judged([misled], "2 of 152 parameters")
    assert verdict == "nothing found by these attacks"
    assert "do not show the known photo" in sentence
    honest = _finding("closed-form", "found", 40.0, "found")
    assert best_of([misled, honest]) is honest
    assert judged([misled, honest], "whole")[0] == "found"


def test_who_finds_the_known_photo_and_not_the_private_one_was_told_something_wrong() -> None:
    verdict, sentence = judged([_finding("closed-form", "nothing", 40.0, "found")], "whole")
    assert verdict == "nothing found by these attacks"
    assert "check that batch size" in sentence
    assert "nothing follows" in judged([_finding("closed-form", "nothing", 11.0, "nothing")], "whole")[1]
    assert judged([AttackFinding("april", "does not apply", "why")], "whole")[0] == "no attack applies"


def test_a_fit_without_a_self_test_is_not_called_found() -> None:
    fitted = AttackFinding("inverting-gradients", "ran", explained=0.998, cosine=1.0, grade="found", fitted=True)
    verdict, sentence = judged([fitted], "16 of 152 parameters")
    assert verdict == "partly"
    assert "run the self-test" in sentence
    little = AttackFinding("adjoint-matching", "ran", explained=0.107, cosine=0.48, grade="partly", fitted=True)
    assert judged([little], "whole")[0] == "nothing found by these attacks"
    # Four photos of 224 pixels: noise accounts for a part of the update, and the known photo does not come back.
    for finding, expected in ((fitted, "partly"), (little, "nothing found by these attacks")):
        failed = replace(finding, self_test=14.3, self_test_plain=18.2)
        verdict, sentence = judged([failed], "whole")
        assert verdict == expected
        assert "did not come back (14.3 dB)" in sentence
        assert judged([replace(failed, self_test=25.0)], "whole")[0] == finding.grade
    solved = AttackFinding("closed-form", "ran", explained=0.95, cosine=1.0, grade="found")
    assert judged([solved, fitted], "whole")[0] == "found"
    assert best_of([AttackFinding("closed-form", "ran", explained=-3.0), fitted]) is fitted


@pytest.mark.parametrize("size", [1, 4, 5, 8, 9])
def test_controls_are_none_of_the_photos_of_the_self_test(size: int) -> None:
    victim, observation, _ = client_that_trains(LocalTraining(learning_rate=1.0), some_images(1))
    client = KnownPhotos(open_images("photos"), observation, victim, seed=0)
    used = client.images(size)
    controls = client.controls(size)
    assert len(controls) == 4
    for control in controls:
        assert control.shape == used.shape
        assert not any(torch.equal(one, other) for one in control for other in used)


def test_of_several_known_photos_the_one_counts_that_came_back_best_beside_its_mean_colour() -> None:
    generator = torch.Generator().manual_seed(0)
    flat = 0.5 + 0.02 * torch.rand(1, 3, 8, 8, generator=generator)
    rich = torch.rand(1, 3, 8, 8, generator=generator)
    photos = torch.cat([flat, rich])
    blurred = torch.cat([flat.mean((2, 3), keepdim=True).expand_as(flat), 0.5 + 0.5 * (rich - 0.5)])
    reached, plain = came_back(blurred, photos)
    assert plain < 15
    assert reached == pytest.approx(plain + 6, abs=1)
