"""Servers that cheat: what they plant brings images back, the honest model does not, and a client can see it in the weights."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import privbench
from privbench.analysis.rows import record_row
from privbench.client import observe
from privbench.core import (
    ATTACKS,
    ComponentSpec,
    Observation,
    Secret,
    ThreatModel,
    UserError,
    build_defense,
    build_server,
    resolve_defense,
)
from privbench.models import Victim, load_victim, resolve_victim
from privbench.scoring import psnr
from privbench.servers.suspicion import suspicion
from privbench.tables.cases import servers_said
from tests.conformance import some_images


def _sent(server: ComponentSpec | None, labels: list[int], dtype: torch.dtype) -> tuple[Victim, Observation, Secret]:
    none = resolve_defense("none")
    built = build_defense(none)
    spec = resolve_victim("vit_mini_patch4_32", "embedded", built)
    victim = load_victim(spec, built, generator=torch.Generator().manual_seed(0))
    cheating = build_server(server)
    if cheating is not None:
        cheating.prepare_model(victim)
        cheating.poison(victim, torch.Generator().manual_seed(0))
    victim = victim.to(dtype)
    # Smooth images of different brightness, as photographs are.
    noise = some_images(len(labels))
    brightness = torch.linspace(0.25, 0.75, len(labels)).view(-1, 1, 1, 1)
    images = (0.4 * (noise - 0.5) + brightness).clamp(0, 1).to(dtype)
    observation, secret = observe(
        victim,
        spec.model,
        built,
        images,
        torch.tensor(labels),
        declared=none,
        threat_model=ThreatModel(server="malicious" if server else "honest"),
        generator=torch.Generator().manual_seed(1),
        server=server,
    )
    return victim, observation, secret


def _found(attack: str, observation: Observation, secret: Secret) -> torch.Tensor:
    """For each private image, the best PSNR."""
    result = ATTACKS.get(attack)()(observation, generator=torch.Generator().manual_seed(0))
    truth = secret.images.float()
    return torch.stack([psnr(one.expand_as(truth), truth) for one in result.images]).amax(0)


@pytest.mark.parametrize(("dtype", "least"), [(torch.float64, 60), (torch.float32, 40)])
def test_an_imprint_layer_gives_every_image_of_a_batch_away(dtype: torch.dtype, least: float) -> None:
    server = ComponentSpec(name="imprint", parameters={"bins": 256})
    _, observation, secret = _sent(server, [3, 8, 8, 0, 6, 6, 1, 6], dtype)
    assert int((_found("imprint", observation, secret) > least).sum()) >= (8 if dtype == torch.float64 else 7)


def test_an_imprinted_model_classifies_as_before() -> None:
    honest, _, secret = _sent(None, [0, 1, 2, 3], torch.float32)
    imprinted, _, _ = _sent(ComponentSpec(name="imprint"), [0, 1, 2, 3], torch.float32)
    assert torch.equal(honest(secret.images).argmax(1), imprinted(secret.images).argmax(1))


def test_of_a_batch_the_fished_image_comes_back() -> None:
    server = ComponentSpec(name="fishing", parameters={"target": 3})
    _, observation, secret = _sent(server, [3, 8, 8, 0, 6, 6, 1, 6], torch.float32)
    found = _found("fishing", observation, secret)
    assert found[0] > 40
    assert (found[1:] < 30).all()


def test_the_attacks_refuse_what_no_server_planted() -> None:
    _, observation, _ = _sent(None, [0, 1], torch.float32)
    for name in ("imprint", "fishing"):
        with pytest.raises(UserError, match=f"choose --server {name}"):
            ATTACKS.get(name)()(observation, generator=torch.Generator())


def test_a_saved_observation_keeps_its_server(tmp_path: Path) -> None:
    server = ComponentSpec(name="imprint", parameters={"bins": 16})
    _, observation, secret = _sent(server, [0, 1], torch.float32)
    path = Path(str(tmp_path)) / "o.safetensors"
    observation.save(path)
    again = Observation.load(path)
    assert again.server == server
    assert torch.equal(_found("imprint", again, secret), _found("imprint", replace(observation), secret))


def test_a_careful_client_tells_cheating_servers_from_honest_ones() -> None:
    labels = [0, 1]
    honest = suspicion(_sent(None, labels, torch.float32)[0])
    assert honest < 0.6
    for name in ("imprint", "fishing"):
        assert suspicion(_sent(ComponentSpec(name=name), labels, torch.float32)[0]) > 0.99


def test_a_class_that_the_model_has_not_cannot_be_fished_for() -> None:
    with pytest.raises(UserError, match="classes 0 to 9"):
        _sent(ComponentSpec(name="fishing", parameters={"target": 10}), [0], torch.float32)


def test_a_record_says_what_the_changes_cost_and_what_a_client_could_notice(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    pictures = generator.integers(0, 256, (72, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", images=pictures, labels=np.arange(72) % 10)
    results = privbench.run(
        defense="none",
        attack="imprint",
        server="imprint:bins=64",
        data=str(tmp_path / "data.npz"),
        limit=2,
        batch_size=2,
        output=tmp_path / "runs",
    )
    (record,) = results.records
    assert record.manipulated_accuracy_images == 70
    assert 0 <= (record.manipulated_accuracy or 0) <= 1
    assert (record.suspicion or 0) > 0.99
    (line,) = servers_said([record], ["none"])
    assert "server imprint:bins=64" in line
    assert "of 70 public images" in line
    row = record_row(record)
    assert (row["sok"], row["suspicion"]) == ("G", record.suspicion)
    honest = privbench.run(defense="none", attack="closed-form", limit=1, output=tmp_path / "runs").records[0]
    assert (honest.suspicion, honest.manipulated_accuracy) == (None, None)
    assert servers_said([honest], ["none"]) == []
