"""The bridge to Flower: a mod keeps what a client sends, and the file can be audited as it is."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import privbench
from privbench.core import LocalTraining, Observation
from privbench.updates import keep_update
from tests.conformance import some_images
from tests.test_client_training import client_that_trains


def _message(arrays: dict[str, torch.Tensor], number: int) -> Any:
    record = SimpleNamespace(to_torch_state_dict=lambda: arrays)
    content = SimpleNamespace(array_records={"arrays": record}, config_records={"config": {"server-round": number}})
    return SimpleNamespace(content=content, has_content=lambda: True, metadata=SimpleNamespace(group_id=""))


def test_a_mod_keeps_the_update_and_an_audit_of_the_file_finds_the_image(tmp_path: Path) -> None:
    training = LocalTraining(steps=2)
    victim, observation, _ = client_that_trains(training, some_images(1))
    before = {name: value.detach() for name, value in victim.network.state_dict().items()}
    after = {name: value + observation.update[f"network.{name}"] for name, value in before.items()}
    reply = _message(after, 2)
    mod = keep_update(tmp_path, model="vit_mini_patch4_32", training=training)
    context = SimpleNamespace(node_config={"partition-id": 3}, node_id=17)
    assert mod(_message(before, 2), context, lambda *_: reply) is reply
    path = tmp_path / "client-3-round-2.safetensors"
    kept = Observation.load(path)
    assert (kept.kind, kept.training, kept.model.name) == ("delta", training, "vit_mini_patch4_32")
    assert torch.allclose(kept.update["network.head.bias"], observation.update["network.head.bias"], atol=1e-7)
    report = privbench.audit(update=path, attacks=["closed-form"], self_test=False)
    assert report.verdict == "found"


def test_a_message_without_arrays_passes_through(tmp_path: Path) -> None:
    empty = SimpleNamespace(content=None, has_content=lambda: False)
    mod = keep_update(tmp_path, model="vit_mini_patch4_32", training=LocalTraining())
    assert mod(empty, None, lambda *_: empty) is empty
    assert list(tmp_path.iterdir()) == []


def _example() -> Any:
    file = Path(__file__).parents[2] / "examples" / "flower" / "federation.py"
    specification = importlib.util.spec_from_file_location("federation", file)
    assert specification is not None
    assert specification.loader is not None
    federation = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(federation)
    return federation


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")
def test_three_rounds_of_real_flower_are_kept_and_dpsgd_hides_what_was_found(tmp_path: Path) -> None:
    pytest.importorskip("flwr", reason="the extra 'flower' is not installed")
    federation = _example()
    federation.federate(str(tmp_path / "plain"))
    assert len(list((tmp_path / "plain").iterdir())) == 12
    name = "client-2-round-2.safetensors"
    found = privbench.audit(update=tmp_path / "plain" / name, attacks=["closed-form"], self_test=False)
    assert found.verdict == "found"
    federation.federate(str(tmp_path / "private"), "dpsgd:noise_multiplier=0.1,max_grad_norm=1.0")
    hidden = privbench.audit(update=tmp_path / "private" / name, attacks=["closed-form"], self_test=False)
    assert hidden.verdict != "found"


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")
def test_flowers_own_simulation_trains_the_same_weights(tmp_path: Path) -> None:
    for package in ("flwr", "ray"):
        pytest.importorskip(package, reason="the extras 'flower' and 'ray' are not installed")
    example = Path(__file__).parents[2] / "examples" / "flower" / "federation.py"
    # In a process of its own: Ray takes over signals and the environment.
    subprocess.run([sys.executable, str(example), str(tmp_path / "ray"), "--ray"], check=True, timeout=900)
    _example().federate(str(tmp_path / "plain"))
    files = sorted(path.name for path in (tmp_path / "plain").iterdir())
    assert sorted(path.name for path in (tmp_path / "ray").iterdir()) == files
    assert len(files) == 12
    for name in files:
        ray, plain = (Observation.load(tmp_path / way / name) for way in ("ray", "plain"))
        assert ray.training == plain.training
        for key, value in plain.update.items():
            assert torch.allclose(ray.update[key], value, atol=1e-4 * float(value.abs().max()) + 1e-7)
