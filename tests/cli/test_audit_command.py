"""`privbench audit` as a user types it."""

from collections.abc import Callable
from pathlib import Path

import torch
from click.testing import Result

from privbench.core import LocalTraining
from tests.conformance import some_images
from tests.test_client_training import client_that_trains


def test_before_and_after_give_a_verdict_and_an_exit_code_for_ci(tmp_path: Path, privbench: Callable[..., Result]) -> None:
    victim, observation, _ = client_that_trains(LocalTraining(steps=2), some_images(1))
    before = {name: value.detach() for name, value in victim.network.state_dict().items()}
    after = {name: value + observation.update[f"network.{name}"] for name, value in before.items()}
    torch.save(before, tmp_path / "w0.pth")
    torch.save(after, tmp_path / "wT.pth")
    command = ["audit", "--before", str(tmp_path / "w0.pth"), "--after", str(tmp_path / "wT.pth"), "--lr", "0.01"]
    command += ["--local-steps", "2", "--model", "vit_mini_patch4_32", "--no-self-test", "-o", str(tmp_path / "out")]
    done = privbench(*command, "--fail-on-leak")
    assert done.exit_code == 3, done.output
    assert "verdict: found." in done.output
    assert (tmp_path / "out" / "index.html").is_file()
    assert privbench(*command).exit_code == 0


def test_a_set_up_can_be_tested_without_an_update(tmp_path: Path, privbench: Callable[..., Result]) -> None:
    done = privbench("audit", "--self-test", "--model", "vit_mini_patch4_32", "--attacks", "closed-form", "-o", str(tmp_path))
    assert done.exit_code == 0, done.output
    assert "verdict: found." in done.output
    assert "note: no update was given" in " ".join(done.output.split())
    assert "best match among the photos: astronaut, 1" in done.output


def test_an_update_that_was_forgotten_is_no_verdict(privbench: Callable[..., Result]) -> None:
    done = privbench("audit", "--model", "vit_mini_patch4_32")
    assert done.exit_code == 2
    assert "nothing to audit" in done.output


def test_bad_input_is_one_line(tmp_path: Path, privbench: Callable[..., Result]) -> None:
    (tmp_path / "u.pt").write_bytes(b"nothing")
    done = privbench("audit", str(tmp_path / "u.pt"), "--model", "vit_mini_patch4_32")
    assert done.exit_code == 2
    assert "cannot be read" in done.output
    assert privbench("audit", "u.pt", "--model", "vit_mini_patch4_32", "--mean", "a").exit_code == 2


def test_an_empty_list_of_attacks_is_refused_and_not_taken_for_all(privbench: Callable[..., Result]) -> None:
    done = privbench("audit", "--self-test", "--model", "vit_mini_patch4_32", "--attacks", "")
    assert done.exit_code == 2
    assert "accepted: NAME" in done.output
