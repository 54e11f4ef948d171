"""Ensembles: highest leakage over attacks, cheapest first, none twice, one row, a remark where a number misleads."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest
import torch

from privbench.analysis.leaderboard import leaderboard
from privbench.core import ATTACKS, ENSEMBLES, Attack, Case, Ensemble, Observation, Progress, Reconstruction, Record, UserError
from privbench.core.flags import ENSEMBLE_FLAGS
from privbench.resolving.options import RunOptions
from privbench.resolving.resolve import resolve_cases
from privbench.runner.ensemble import run
from privbench.runner.listener import Listener
from privbench.runner.suites import Suites


class Flat(Attack):
    """One grey value for every image: what it is depends on the adversary, so that scores can be foreseen."""

    name: ClassVar[str] = "test-flat"
    greys: ClassVar[Mapping[str, float]] = {"unaware": 0.5, "aware": 0.5, "oracle": 0.5}
    last_loss: ClassVar[float] = 1.0

    def run(self, observation: Observation, *, generator: torch.Generator, progress: Progress) -> Reconstruction:
        """Reports a loss of 1, then the last one."""
        for step, loss in enumerate((1.0, self.last_loss)):
            progress.report(step, 2, "only", {"match": loss})
        grey = self.greys[observation.threat_model.adversary]
        return Reconstruction(torch.full((observation.batch_size, *observation.image_shape), grey), steps=2)


class Black(Flat):
    """Black images."""

    name: ClassVar[str] = "test-black"
    greys: ClassVar[Mapping[str, float]] = {"unaware": 0.0, "aware": 0.0, "oracle": 0.0}


class Stopping(Flat):
    """Is interrupted the first time."""

    name: ClassVar[str] = "test-stopping"
    stopped: ClassVar[bool] = False

    def run(self, observation: Observation, *, generator: torch.Generator, progress: Progress) -> Reconstruction:
        """Stops once, then does its work."""
        if not type(self).stopped:
            type(self).stopped = True
            raise KeyboardInterrupt
        return super().run(observation, generator=generator, progress=progress)


class Knowing(Flat):
    """Has an image prior."""

    name: ClassVar[str] = "test-knowing"

    def image_priors(self) -> tuple[str, ...]:
        """The embedded CNN."""
        return ("cnn_mini_32",)


class Refusing(Flat):
    """Applies to nothing."""

    name: ClassVar[str] = "test-refusing"

    def require(self, observation: Observation) -> None:
        """Refuses."""
        raise UserError("attack test-refusing applies to nothing")


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    """The attacks above, as long as a test runs."""
    attacks = (Flat, Black, Stopping, Knowing, Refusing)
    for attack in attacks:
        ATTACKS.register(attack.name, attack)
    yield
    for attack in attacks:
        ATTACKS.unregister(attack.name)


@pytest.fixture
def ensemble() -> Iterator[Callable[..., str]]:
    """Registers an ensemble and returns its name."""
    names: list[str] = []

    def make(*attacks: str, **how: Any) -> str:
        name = f"test-ensemble-{len(names)}"
        ENSEMBLES.register(name, Ensemble("For a test.", attacks, **how))
        names.append(name)
        return name

    yield make
    for name in names:
        ENSEMBLES.unregister(name)


def resolved(attack: str, defense: str = "none", **options: Any) -> Case:
    model = {} if options.get("weights") == "embedded" else {"model": "test-vit", "weights": "random"}
    (case,) = resolve_cases(cast(RunOptions, {"attack": attack, "defense": defense, "limit": 2, **model, **options}))
    return case


@pytest.fixture
def compute(tmp_path: Path) -> Callable[..., Record]:
    """Computes any case in `tmp_path`."""

    def compute(case: Case, **how: Any) -> Record:
        return run(case, output=tmp_path, suites=Suites(download=False), **how)

    return compute


def members(record: Record) -> list[tuple[str, str, int, int]]:
    return [(member.attack, member.adversary, member.images, member.won) for member in record.members]


def test_an_image_that_was_recovered_is_not_attacked_again(compute: Callable[..., Record], tmp_path: Path) -> None:
    record = compute(resolved("fast", weights="embedded"))
    assert record.summary["psnr"].low > 60
    assert {image.won_by for image in record.images} == {"closed-form (unaware)"}
    assert members(record) == [
        ("april", "unaware", 0, 0),
        ("closed-form", "unaware", 2, 2),
        ("subspace", "unaware", 0, 0),
        ("token-search", "unaware", 0, 0),
        ("adjoint-matching", "unaware", 0, 0),
    ]
    april, _, subspace, *_ = record.members
    assert april.skipped is not None
    assert "LayerNorm" in april.skipped
    assert (subspace.skipped, subspace.case_id) == (None, None)
    folder = tmp_path / record.case.folder
    assert all((folder / str(image.reconstruction)).is_file() for image in record.images)
    assert len(list((folder / "members").iterdir())) == 1


def test_every_metric_is_the_worst_over_the_members(ensemble: Callable[..., str], compute: Callable[..., Record]) -> None:
    flat, black = (compute(resolved(name)) for name in ("test-flat", "test-black"))
    both = compute(resolved(ensemble("test-black", "test-flat")))
    for one, other, worst in zip(flat.images, black.images, both.images, strict=True):
        for name in ("psnr", "ssim", "psnr_patch"):
            assert worst.scores[name] == max(one.scores[name], other.scores[name])
            assert worst.scores_saved[name] == max(one.scores_saved[name], other.scores_saved[name])
        assert worst.scores["mse"] == min(one.scores["mse"], other.scores["mse"])
        assert worst.steps == one.steps + other.steps
        grey_wins = one.scores["psnr"] > other.scores["psnr"]
        assert worst.won_by == ("test-flat (unaware)" if grey_wins else "test-black (unaware)")
    assert sum(member.won for member in both.members) == 2


def test_a_batch_is_attacked_again_until_all_of_it_is_recovered(
    ensemble: Callable[..., str], compute: Callable[..., Record]
) -> None:
    black = {image.image: image.scores["psnr"] for image in compute(resolved("test-black", limit=4)).images}
    values = sorted(black.values())
    name = ensemble("test-black", "test-flat", recovered=(values[1] + values[2]) / 2)
    assert [member.images for member in compute(resolved(name, limit=4)).members] == [4, 2]
    names = list(black)
    # In pairs, the second attack takes every pair with an image that black does not give away.
    pairs = [names[:2], names[2:]]
    left = sum(2 for pair in pairs if min(black[image] for image in pair) < (values[1] + values[2]) / 2)
    assert [member.images for member in compute(resolved(name, limit=4, batch_size=2)).members] == [4, left]


def test_a_member_faces_the_client_that_it_would_face_alone(ensemble: Callable[..., str], tmp_path: Path) -> None:
    """The masks of an image must not depend on which others are left."""
    from privbench.runner.context import load_case

    whole = load_case(resolved("test-flat", "mjp", limit=3), torch.device("cpu"))
    part = load_case(resolved("test-black", "mjp", limit=None, indices="2"), torch.device("cpu"))
    for name, gradient in whole.observe(2)[0].gradients.items():
        assert torch.equal(gradient, part.observe(0)[0].gradients[name])


def test_a_member_is_the_case_that_it_would_be_alone(ensemble: Callable[..., str], compute: Callable[..., Record]) -> None:
    """The weights of another member's prior are none of its business."""
    names = ("test-black", "test-knowing")
    case = resolved(ensemble(*names))
    assert list(case.prior_weights) == ["cnn_mini_32"]
    assert [member.case_id for member in compute(case).members] == [resolved(name).identity for name in names]


def test_adversaries_rise_to_the_threat_model_where_the_defense_is_simulated(
    ensemble: Callable[..., str], compute: Callable[..., Record]
) -> None:
    name = ensemble("test-flat")
    tried = {
        (defense, adversary): [m.adversary for m in compute(resolved(name, defense, adversary=adversary)).members]
        for defense, adversary in [("none", "oracle"), ("mjp", "unaware"), ("mjp", None), ("mjp", "oracle")]
    }
    assert tried == {
        ("none", "oracle"): ["unaware"],
        ("mjp", "unaware"): ["unaware"],
        ("mjp", None): ["unaware", "aware"],
        ("mjp", "oracle"): ["unaware", "aware", "oracle"],
    }


def test_flags_say_what_a_number_is_not_worth(
    ensemble: Callable[..., str], compute: Callable[..., Record], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = ensemble("test-flat")
    calm = compute(resolved(name))
    assert not set(calm.flags) & ENSEMBLE_FLAGS.keys() - {"zero-gradient"}
    assert {"only-unaware-attackers", "randomised-defense-once"} <= set(
        compute(resolved(name, "mjp", adversary="unaware")).flags
    )
    aware = compute(resolved(name, "mjp"))
    assert "only-unaware-attackers" not in aware.flags
    assert "weaker-beat-stronger" not in aware.flags
    monkeypatch.setattr(Flat, "greys", {"unaware": 0.5, "aware": 0.0})
    assert "weaker-beat-stronger" in compute(resolved(name, "mjp", seed=1)).flags
    monkeypatch.setattr(Flat, "last_loss", 0.01)
    assert "loss-fell-score-did-not" in compute(resolved(name, seed=1)).flags
    assert "loss-fell-score-did-not" not in calm.flags


@pytest.mark.nightly
def test_drawing_the_defense_several_times_gives_the_mean(ensemble: Callable[..., str], compute: Callable[..., Record]) -> None:
    once, thrice = (ensemble("test-walk", draws=draws) for draws in (1, 3))
    singles = [compute(resolved(once, "mjp", weights="embedded", seed=seed)) for seed in (5, 6, 7)]
    record = compute(resolved(thrice, "mjp", weights="embedded", seed=5))
    for place, image in enumerate(record.images):
        expected = sum(single.images[place].scores["psnr"] for single in singles) / 3
        assert image.scores["psnr"] == pytest.approx(expected, rel=1e-12)
    assert [member.seed for member in record.members] == [5, 5, 6, 6, 7, 7]
    assert "randomised-defense-once" not in record.flags


def test_an_interrupted_ensemble_continues_with_what_is_finished(
    ensemble: Callable[..., str], compute: Callable[..., Record], tmp_path: Path
) -> None:
    class Watching(Listener):
        reused_members: ClassVar[list[str]] = []

        def reused(self, record: Record) -> None:
            self.reused_members.append(record.case.attack.name)

    case = resolved(ensemble("test-walk", "test-stopping"))
    Stopping.stopped = False
    with pytest.raises(KeyboardInterrupt):
        compute(case)
    assert not (tmp_path / case.folder / "record.json").exists()
    record = compute(case, listener=Watching())
    assert Watching.reused_members == ["test-walk"]
    again = compute(case, force=True)
    assert [image.scores for image in again.images] == [image.scores for image in record.images]


def test_the_leaderboard_has_one_row_for_an_ensemble(
    ensemble: Callable[..., str], compute: Callable[..., Record], tmp_path: Path
) -> None:
    name = ensemble("test-black", "test-flat")
    record = compute(resolved(name, "mjp"))
    (row,) = leaderboard(tmp_path).to_dict("records")
    assert (row["attack"], row["attack_params"], row["adversary"]) == (name, "test-black+test-flat", "aware")
    assert sum(int(word.rpartition(":")[2]) for word in row["won_by"].split()) == len(record.images)
    loaded = Record.load(tmp_path / record.case.folder / "record.json")
    assert loaded == record
    assert json.loads(record.to_json())["members"][0]["attack"] == "test-black"


def test_what_cannot_be_run_is_refused_in_one_line(
    ensemble: Callable[..., str], compute: Callable[..., Record], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"takes no parameters \(given: steps\)"):
        resolved("standard:steps=3")
    with pytest.raises(UserError, match=r"takes no parameters \(given: preset\)"):
        resolved("fast", preset="quick")
    with pytest.raises(UserError, match=r"no attack of ensemble .* applies: attack test-refusing applies to nothing"):
        compute(resolved(ensemble("test-refusing")))
    path = tmp_path / "case.yaml"
    path.write_text(resolved("fast").to_yaml().replace("recovered: 40.0", "recovered: 41.0"))
    with pytest.raises(UserError, match="another version of ensemble fast"):
        resolve_cases(RunOptions(config=path))
    path.write_text(resolved("fast").to_yaml())
    assert resolve_cases(RunOptions(config=path)) == [resolved("fast")]


def test_a_failure_of_every_attack_is_a_row_with_the_worst_scores(
    ensemble: Callable[..., str], compute: Callable[..., Record]
) -> None:
    record = compute(resolved(ensemble("test-failing")))
    assert {"every-attack-failed", "failed-images"} <= set(record.flags)
    assert all(image.failure and image.won_by is None for image in record.images)
    saved = compute(resolved(ensemble("test-failing", "test-flat")))
    assert {image.won_by for image in saved.images} == {"test-flat (unaware)"}
    assert "every-attack-failed" not in saved.flags
