"""Features behind a block: the adversaries simulate what they know, embedded tokens give the image back, random layers hide."""

from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

import privbench
from privbench.cli import main
from privbench.core import FeatureObservation, Secret, ThreatModel, UserError, VictimSpec, build_defense, resolve_defense
from privbench.data import open_images
from privbench.features import FeatureDecoder, FeatureMatching, block_features, observe_features, simulate_features
from privbench.models import DEFAULT_MODEL, default_spec, load_victim
from privbench.scoring import psnr

DEPTH = 3


def photo(number: int = 1) -> Tensor:
    images = open_images("photos", "test").as_tensors(32)[0]
    return images[number : number + 1].float() / 255


def observed(defense: str, adversary: str, images: Tensor, *, block: int) -> tuple[FeatureObservation, Secret]:
    specs = resolve_defense(defense)
    built, model = build_defense(specs), default_spec(DEFAULT_MODEL)
    victim = load_victim(VictimSpec(model=model, weights="random"), built, generator=torch.Generator().manual_seed(2))
    threat = ThreatModel.model_validate({"adversary": adversary})
    generator = torch.Generator().manual_seed(5)
    return observe_features(victim, model, built, images, block=block, declared=specs, threat_model=threat, generator=generator)


def misfit(observation: FeatureObservation, images: Tensor) -> float:
    simulated = simulate_features(observation).features(images)
    return float((simulated - observation.features).norm() / observation.features.norm())


def test_the_features_are_those_that_the_next_block_reads() -> None:
    observation, _ = observed("none", "unaware", photo(), block=0)
    victim = simulate_features(observation).model
    network = victim.network
    from privbench.core import ModelInput

    tokens = [block_features(victim, ModelInput(photo()), number) for number in range(DEPTH + 1)]
    for number in range(DEPTH):
        assert torch.allclose(network.blocks[number](tokens[number]), tokens[number + 1], atol=1e-5)  # type: ignore[index,operator]
    logits = network.forward_head(network.norm(tokens[-1]))  # type: ignore[operator]
    assert torch.allclose(logits, victim(photo()), atol=1e-5)


@pytest.mark.parametrize("defense", ["stochastic-layers", "stochastic-layers:form=full,mean=zero", "naive-shuffle", "none"])
def test_who_is_told_the_draw_explains_the_features_and_who_is_not_does_not(defense: str) -> None:
    images = photo()
    assert misfit(observed(defense, "oracle", images, block=2)[0], images) < 1e-5
    unaware = misfit(observed(defense, "unaware", images, block=2)[0], images)
    assert (unaware < 1e-5) if defense == "none" else (unaware > 1e-3)


def test_averaging_over_draws_comes_nearer_to_the_expected_features_than_one_draw() -> None:
    images, text = photo(), "stochastic-layers:simulated_draws=64"
    expected = simulate_features(observed("none", "unaware", images, block=1)[0]).features(images)
    aware, unaware = (
        simulate_features(observed(text, adversary, images, block=1)[0]).features(images) for adversary in ("aware", "unaware")
    )
    # The layer stands in front of a linear one: the mean over draws of the first block's features is that without it.
    assert (aware - expected).norm() < 0.4 * (unaware - expected).norm()


def test_optimisation_gives_an_image_back_from_early_features_and_less_where_the_draw_is_hidden() -> None:
    images, attack = photo(), FeatureMatching(steps=150)
    found = {}
    hidden = "stochastic-layers:spread=3"
    for defense, adversary in (("none", "unaware"), (hidden, "unaware"), (hidden, "oracle")):
        observation, secret = observed(defense, adversary, images, block=1)
        result = attack.run(observation, generator=torch.Generator().manual_seed(0))
        found[defense, adversary] = float(psnr(result.images, secret.images))
    assert found["none", "unaware"] > 22
    assert found[hidden, "oracle"] > found[hidden, "unaware"] + 2


def test_a_decoder_learns_from_public_images_to_read_a_private_one() -> None:
    generator = torch.Generator().manual_seed(1)
    public = torch.nn.functional.interpolate(torch.rand(256, 3, 4, 4, generator=generator), size=32, mode="bilinear")
    private = torch.nn.functional.interpolate(torch.rand(1, 3, 4, 4, generator=generator), size=32, mode="bilinear")
    observation, _ = observed("none", "unaware", private, block=1)
    attack = FeatureDecoder(steps=80, batch_size=16, channels=32)
    found = attack.run(observation, (255 * public).byte(), generator=torch.Generator().manual_seed(0))
    mean = public.mean(0, keepdim=True)
    assert float(psnr(found.images, private)) > float(psnr(mean, private)) + 6
    # The front door runs the same attack.
    settings: dict[str, Any] = {"steps": 3, "batch_size": 8, "channels": 8}
    once = FeatureDecoder(**settings).run(observation, (255 * public).byte(), generator=torch.Generator().manual_seed(0))
    again = privbench.attack(observation, "feature-decoder", **settings, public=(255 * public).byte(), device="cpu")
    assert torch.equal(again.images, once.images)


def test_what_does_not_fit_is_one_line() -> None:
    with pytest.raises(UserError, match="block 5 of VisionTransformer; accepted: 0 to 3"):
        observed("none", "unaware", photo(), block=5)
    observation, _ = observed("mjp:mask_ratio=0.5", "aware", photo(), block=1)
    with pytest.raises(UserError, match="features hold no gradient"):
        simulate_features(observation)
    with pytest.raises(UserError, match="feature-matching"):
        privbench.attack(observation, "closed-form")
    with pytest.raises(UserError, match="public="):
        privbench.attack(observation, "feature-decoder")


def test_the_command_prints_a_row_for_each_attacker(tmp_path: Path) -> None:
    table = tmp_path / "features.csv"
    arguments = [
        "--attack",
        "feature-matching:steps=2",
        "--limit",
        "1",
        "--device",
        "cpu",
        "--weights",
        "random",
        "-o",
        str(table),
    ]
    result = CliRunner().invoke(main, ["features", *arguments])
    assert result.exit_code == 0, result.output
    lines = table.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + 2 * 3
    assert lines[0].startswith("defense,block,attack,adversary,image,psnr,")
    first = [line.split(",")[:5] for line in lines[1:3]]
    assert first == [["none", "1", "feature-matching", name, "0"] for name in ("unaware", "aware")]
    shown = float(result.output.split("PSNR")[1].split()[0])
    assert float(lines[1].split(",")[5]) == pytest.approx(shown, abs=0.06)
    (tmp_path / "file").touch()
    unwritable = CliRunner().invoke(main, ["features", "--limit", "1", "-o", str(tmp_path / "file" / "rows.csv")])
    assert unwritable.exit_code == 2
    assert "is a file; choose a folder" in unwritable.output
    refused = CliRunner().invoke(main, ["features", "--attack", "feature-decoder"])
    assert refused.exit_code == 2
    assert "--public" in refused.output
