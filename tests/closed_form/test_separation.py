"""The features of the first MLP lie in the space that its gradient shows, and tell what masked patches add to the others."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import Block

from privbench.attacks.closed_form import ClosedForm
from privbench.closed_form.mlp_features import MLP_OUTPUT, MlpFeatures, complement_of_rows
from privbench.closed_form.separation import _Mixture
from tests.attacks.closed_forms import attacked, patch_errors, psnr, update


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def _block(width: int) -> Any:
    torch.manual_seed(0)
    return Block(width, num_heads=2).double().eval()


class TestFeatures:
    def test_they_are_what_the_last_layer_is_fed_and_the_block_is_left_as_it_was(self) -> None:
        block, tokens = _block(16), _random(7, 16)
        fed = []
        handle = block.mlp.fc2.register_forward_pre_hook(lambda _, given: fed.append(given[0]))
        block(tokens[None])
        handle.remove()
        assert torch.allclose(MlpFeatures(block, 16)(tokens), fed[0][0], atol=1e-12)
        assert isinstance(block.mlp.fc2, torch.nn.Linear)

    def test_no_features_of_the_true_tokens_lie_outside_what_the_gradient_shows_and_others_do(self) -> None:
        block, tokens = _block(16), _random(9, 16)
        (block(tokens[None]) * _random(1, 9, 16)).sum().backward()
        outside = complement_of_rows(block.mlp.fc2.weight.grad)
        assert outside.shape == (64, 64 - 9)
        features = MlpFeatures(block, 16)
        assert (features(tokens) @ outside).norm() < 1e-10 * features(tokens).norm()
        assert (features(_random(8, 16)) @ outside).norm() > 0.1 * features(_random(8, 16)).norm()


def test_a_step_of_the_mixture_moves_its_tokens_as_it_says_and_leaves_the_known_rows() -> None:
    rows = torch.linalg.qr(_random(12, 12)).Q
    mixture = _Mixture(_random(6, 4), _random(4, 4), 2, rows[:4], rows[4:])
    step = (_random(6, 4), _random(4, 4), _random(2, 8))
    moved = mixture.moved(step, 0.5)
    turned = mixture.turned(0.5 * step[2])
    assert torch.allclose(moved.shares @ moved.span, (mixture.shares + 0.5 * step[0]) @ turned)
    assert torch.allclose(moved.inside @ moved.span, (mixture.inside + 0.5 * step[1]) @ turned)
    assert torch.allclose(moved.span @ moved.span.T, torch.eye(4, dtype=torch.float64), atol=1e-12)
    assert torch.equal(moved.span[:2], mixture.span[:2])
    assert (moved.span @ moved.beyond.T).abs().max() < 1e-12


@pytest.mark.integration
class TestOnMaskedPuzzles:
    def test_the_unmasked_patches_come_back_as_if_nothing_were_masked(self) -> None:
        observation, secret = update("mjp:mask_ratio=0.1", adversary="aware", photo=1)
        found = attacked(ClosedForm(), observation)
        without = replace(observation, update={name: value for name, value in observation.update.items() if name != MLP_OUTPUT})
        before = attacked(ClosedForm(), without)
        assert "masked-shares-removed" in found.flags
        assert "masked-shares-removed" not in before.flags
        mask = secret.choices["mjp.mask"]
        errors, former = (patch_errors(result.images, secret.images)[~mask].mean() for result in (found, before))
        assert errors < 0.1 * former
        assert psnr(found.images, secret.images) > psnr(before.images, secret.images) + 1

    def test_a_gradient_with_noise_that_the_attacker_knows_of_is_left_to_smoothness(self) -> None:
        observation, _ = update("mjp:mask_ratio=0.1+gradient-noise:std=0.001", adversary="aware")
        assert "masked-shares-removed" not in attacked(ClosedForm(), observation).flags

    def test_tokens_that_grew_without_bound_are_not_believed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def grown(equations: Any, mixture: _Mixture, progress: Any) -> _Mixture:
            return replace(mixture, shares=100 * mixture.shares)

        monkeypatch.setattr("privbench.closed_form.separation._descend", grown)
        observation, _ = update("mjp:mask_ratio=0.1", adversary="aware", photo=1)
        without = replace(observation, update={name: value for name, value in observation.update.items() if name != MLP_OUTPUT})
        found, smooth = attacked(ClosedForm(), observation), attacked(ClosedForm(), without)
        assert "masked-shares-removed" not in found.flags
        assert torch.equal(found.images, smooth.images)
