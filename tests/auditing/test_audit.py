"""Audits: what is there is found and said, what is not is not called safe, and files and names of a user's kind work."""

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import privbench
from privbench.auditing import AuditReport
from privbench.auditing.front import _names
from privbench.core import LocalTraining, UserError
from tests.conformance import some_images
from tests.test_client_training import client_that_trains

MODEL = "vit_mini_patch4_32"


def _gradient(images: int = 1) -> dict[str, torch.Tensor]:
    _, observation, _ = client_that_trains(LocalTraining(learning_rate=1.0), some_images(images))
    return {name.replace("network.", "module."): -value for name, value in observation.update.items()}


def test_the_image_of_a_gradient_is_found_and_the_dearer_attacks_are_not_run(tmp_path: Path) -> None:
    lines: list[str] = []
    report = privbench.audit(MODEL, _gradient(), output=tmp_path, say=lines.append)
    assert report.verdict == "found"
    assert report.leaks
    by_name = {finding.name: finding for finding in report.findings}
    assert by_name["closed-form"].explained == pytest.approx(1, abs=1e-3)
    assert (by_name["closed-form"].self_test or 0) > 60
    assert by_name["adjoint-matching"].outcome == "not needed"
    assert by_name["local-steps"].outcome == "does not apply"
    assert report.best is not None
    assert (report.best.images - some_images(1)).square().mean() < 1e-5
    assert any(line.startswith("plan: closed-form, about") for line in lines)
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "data:image/png;base64," in page
    assert json.loads((tmp_path / "audit.json").read_text(encoding="utf-8"))["verdict"] == "found"
    assert (tmp_path / "closed-form-0.png").is_file()


def test_a_repeated_audit_continues_with_what_is_finished(tmp_path: Path) -> None:
    common = {"attacks": ["closed-form"], "self_test": False, "output": tmp_path}
    first = privbench.audit(MODEL, _gradient(), **common)  # type: ignore[arg-type]
    lines: list[str] = []
    again = privbench.audit(MODEL, _gradient(), **common, say=lines.append)  # type: ignore[arg-type]
    assert "closed-form: kept from before" in lines
    assert again.findings == first.findings


def test_another_update_of_the_same_model_in_the_same_folder_is_attacked_itself(tmp_path: Path) -> None:
    common = {"attacks": ["closed-form"], "self_test": False, "output": tmp_path}
    privbench.audit(MODEL, _gradient(), **common)  # type: ignore[arg-type]
    _, other, secret = client_that_trains(LocalTraining(learning_rate=1.0), some_images(2)[1:])
    update = {name: -value for name, value in other.update.items()}
    report = privbench.audit(MODEL, update, **common)  # type: ignore[arg-type]
    assert report.best is not None
    assert (report.best.images - secret.images).square().mean() < 1e-5
    lines: list[str] = []
    wrong = privbench.audit(MODEL, update, **common, mean=[0.2], std=[0.5], say=lines.append)  # type: ignore[arg-type]
    assert (wrong.findings[0].explained or 0) < 0.99
    privbench.audit(MODEL, update, **common, labels=[3], say=lines.append)  # type: ignore[arg-type]
    assert not any("kept from before" in line for line in lines)


@pytest.mark.parametrize("turned", [1, -1])
def test_a_delta_is_found_whichever_way_round_it_is(turned: int) -> None:
    _, observation, _ = client_that_trains(LocalTraining(steps=3), some_images(1))
    delta = {name: turned * value for name, value in observation.update.items()}
    report = privbench.audit(MODEL, delta, learning_rate=0.01, steps=3, attacks=["closed-form"], self_test=False)
    assert report.verdict == "found"
    assert any("its sign is turned" in note for note in report.notes) == (turned < 0)


def test_weights_before_and_after_are_an_update_and_a_raw_delta_is_known_by_its_sign() -> None:
    victim, observation, _ = client_that_trains(LocalTraining(steps=2), some_images(1))
    before = {name: value.detach() for name, value in victim.network.state_dict().items()}
    after = {name: value + observation.update[f"network.{name}"] for name, value in before.items()}
    common = {"attacks": ["closed-form"], "self_test": False}
    report = privbench.audit(MODEL, after=after, weights=before, learning_rate=0.01, steps=2, **common)  # type: ignore[arg-type]
    assert report.verdict == "found"
    unsaid = privbench.audit(MODEL, dict(observation.update), **common)  # type: ignore[arg-type]
    assert unsaid.verdict == "found"
    assert any("shows a weight delta" in note for note in unsaid.notes)
    with pytest.raises(UserError, match="sign of a weight delta"):
        privbench.audit(MODEL, dict(observation.update), kind="gradient", **common)  # type: ignore[arg-type]


def test_a_batch_that_is_called_one_image_and_noise_are_not_called_found_nor_safe() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = {name: torch.randn(value.shape, generator=generator) for name, value in _gradient().items()}
    for update in (_gradient(4), noise):
        report = privbench.audit(MODEL, update, attacks=["closed-form"])
        assert report.verdict == "nothing found by these attacks"
        assert "check that batch size, normalisation" in report.sentence
        assert "safe" not in report.sentence


def test_the_wrong_normalisation_shows() -> None:
    right = privbench.audit(MODEL, _gradient(), attacks=["closed-form"], self_test=False)
    wrong = privbench.audit(MODEL, _gradient(), attacks=["closed-form"], self_test=False, mean=[0.2], std=[0.5])
    assert (right.findings[0].explained or 0) > 0.99 > (wrong.findings[0].explained or 0)


def test_of_the_classifier_alone_no_closed_form_applies_and_of_the_first_attention_subspace_does() -> None:
    head = {name: value for name, value in _gradient().items() if ".head." in f".{name}"}
    report = privbench.audit(MODEL, head, attacks=["closed-form", "subspace"])
    assert report.verdict == "no attack applies"
    assert "needs the update of pos_embed" in report.findings[0].reason
    attention = {name: value for name, value in _gradient().items() if "blocks.0.attn.qkv.weight" in name}
    found = privbench.audit(MODEL, attention, attacks=["closed-form", "subspace"], self_test=False)
    assert found.best is not None
    assert (found.best.images - some_images(1)).square().mean() < 1e-5
    assert found.verdict == "found"


def test_of_the_last_layers_the_label_is_read_and_general_matching_is_all_that_is_planned() -> None:
    last = {name: value for name, value in _gradient().items() if name.startswith(("module.blocks.2.", "module.head."))}
    lines: list[str] = []
    report = privbench.audit(
        MODEL, last, attacks="closed-form,adjoint-matching,inverting-gradients:steps=3", self_test=False, say=lines.append
    )
    assert [finding.outcome for finding in report.findings] == ["does not apply", "does not apply", "ran"]
    assert report.labels == tuple(report.findings[-1].labels)
    assert f"label read off the classifier: {report.labels[0]}" in list(report.lines())
    assert not any("choose" in line for line in lines)
    whole = privbench.audit(
        MODEL, _gradient(), attacks=["adjoint-matching:steps=1", "inverting-gradients:steps=1"], self_test=False
    )
    assert whole.findings[1].reason == "adjoint-matching does the same, and better"


def test_an_interrupted_attack_goes_on_where_it_was(tmp_path: Path) -> None:
    steps: list[int] = []
    lines: list[str] = []

    def interrupt(label: str, step: int, total: int, left: float) -> None:
        steps.append(step)
        if step == 20:
            signal.raise_signal(signal.SIGINT)

    def audit(step: Callable[[str, int, int, float], None]) -> AuditReport:
        return privbench.audit(
            MODEL,
            _gradient(),
            attacks="adjoint-matching:steps=40",
            self_test=False,
            output=tmp_path,
            say=lines.append,
            step=step,
        )

    with pytest.raises(KeyboardInterrupt):
        audit(interrupt)
    assert lines[-1] == "stopped; the same command continues from here"
    after: list[int] = []
    continued = audit(lambda *at: after.append(at[1]))
    assert (max(steps), min(after), max(after)) == (20, 30, 40)
    assert continued.findings[0].outcome == "ran"
    assert not list(tmp_path.glob(".work/*.state"))


def test_an_audit_interrupted_in_the_self_test_does_not_run_the_attack_again(tmp_path: Path) -> None:
    def audit(step: Callable[[str, int, int, float], None], *, self_test: bool = True) -> AuditReport:
        attacks = "adjoint-matching:steps=20"
        return privbench.audit(MODEL, _gradient(), attacks=attacks, self_test=self_test, output=tmp_path, step=step)

    def interrupt(label: str, step: int, total: int, left: float) -> None:
        if "self-test" in label:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        audit(interrupt)
    labels: list[str] = []
    continued = audit(lambda *at: labels.append(at[0]))
    assert set(labels) == {"adjoint-matching, self-test"}
    assert continued.findings[0].self_test is not None
    labels.clear()
    assert audit(lambda *at: labels.append(at[0]), self_test=False).findings[0].self_test is None
    assert not labels


def test_a_time_limit_leaves_out_what_does_not_fit_and_a_repeated_audit_continues(tmp_path: Path) -> None:
    attacks = "closed-form,adjoint-matching:steps=24,inverting-gradients"
    steps: list[int] = []

    def audit(minutes: float | None) -> AuditReport:
        return privbench.audit(
            MODEL,
            _gradient(4),
            attacks=attacks,
            self_test=False,
            minutes=minutes,
            output=tmp_path,
            step=lambda *at: steps.append(at[1]),
        )

    none = audit(0)
    assert none.verdict == "nothing found by these attacks"
    assert none.sentence == "No attack came to its end in the time given. Left out for time: closed-form, adjoint-matching."
    assert [one.outcome for one in none.findings] == ["left out", "left out", "does not apply"]
    lines = list(none.lines())
    assert "closed-form: left out, the time was up; the same command without a time limit continues" in lines

    closed = privbench.audit(MODEL, _gradient(4), attacks="closed-form", self_test=False, output=tmp_path)
    assert closed.findings[0].outcome == "ran"
    short = audit(1e-3)
    assert [one.outcome for one in short.findings] == ["ran", "left out", "does not apply"]
    whole = audit(None)
    assert whole.findings[1].outcome == "ran"
    assert "Left out" not in whole.sentence
    assert whole.findings[0] == closed.findings[0]


def test_a_defense_is_tried_on_a_known_photo_and_photos_are_matched(tmp_path: Path) -> None:
    report = privbench.audit(
        MODEL, _gradient(), attacks=["closed-form"], self_test=False, what_if=["quantization", "pruning:p=0.9"], photos="photos"
    )
    assert [one.defense for one in report.what_if] == ["quantization", "pruning:p=0.9"]
    assert all(one.psnr is not None and one.psnr < 40 for one in report.what_if)
    assert len(report.matches) == 1


def test_a_function_in_a_file_builds_the_model(tmp_path: Path) -> None:
    code = (
        "from timm.models import VisionTransformer\n"
        "def build():\n"
        "    return VisionTransformer(img_size=32, patch_size=4, embed_dim=192, depth=3, num_heads=3, num_classes=10)\n"
    )
    (tmp_path / "mine.py").write_text(code, encoding="utf-8")
    victim, _, _ = client_that_trains(LocalTraining(), some_images(1))
    mean, std = victim.mean.flatten().tolist(), victim.std.flatten().tolist()
    report = privbench.audit(
        f"{tmp_path / 'mine.py'}:build",
        _gradient(),
        weights=dict(victim.network.state_dict()),
        mean=mean,
        std=std,
        attacks=["closed-form"],
        self_test=False,
    )
    assert report.verdict == "found"
    for wrong, line in ((":absent", "AttributeError"), (":nothing", "AttributeError")):
        with pytest.raises(UserError, match=line):
            privbench.audit(f"{tmp_path / 'mine.py'}{wrong}", _gradient())
    with pytest.raises(UserError, match="there is no file"):
        privbench.audit("absent.py:build", _gradient())


def test_what_does_not_fit_is_one_line() -> None:
    with pytest.raises(UserError, match="both are needed"):
        privbench.audit(MODEL, _gradient(), learning_rate=0.1)
    with pytest.raises(UserError, match="go together"):
        privbench.audit(MODEL, _gradient(), mean=[0.5])
    with pytest.raises(UserError, match="nothing to audit: give UPDATE"):
        privbench.audit(MODEL)
    with pytest.raises(UserError, match="the weights lack"):
        privbench.audit(MODEL, _gradient(), weights={"cls_token": torch.zeros(1, 1, 192)})
    with pytest.raises(UserError, match="no parameter other"):
        privbench.audit(MODEL, {"other": torch.ones(2)})
    with pytest.raises(UserError, match="of type"):
        privbench.audit(MODEL, nn.Linear(1, 1))


def test_a_defense_to_try_that_is_none_is_refused_before_the_work() -> None:
    with pytest.raises(UserError, match="unknown defense 'zzz'"):
        _names("mjp,zzz")
    assert list(_names("mjp,none")) == ["mjp", "none"]
