"""The explained share tells a true picture from garbage, without the truth."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from privbench.adversary import simulate
from privbench.core import Adversary, Case, InferredChoices, Normalisation, Observation, Reconstruction, Record, Secret
from privbench.core.flags import EXPLAINED_LIMIT, NOT_EXPLAINED
from privbench.runner.context import load_case
from privbench.runner.explained import share_of, with_explained_share

CPU = torch.device("cpu")


def seen(case: Case, adversary: Adversary = "unaware") -> tuple[Observation, Secret]:
    threat_model = case.threat_model.model_copy(update={"adversary": adversary})
    return load_case(case.model_copy(update={"threat_model": threat_model}), CPU).observe(0)


def truth(secret: Secret, **fields: InferredChoices) -> Reconstruction:
    return Reconstruction(secret.images, labels=secret.labels, **fields)  # type: ignore[arg-type]


def test_the_truth_explains_all_and_noise_nothing(small_case: Callable[..., Case]) -> None:
    observation, secret = seen(small_case(model="vit_mini_patch4_32"))
    assert share_of(truth(secret), observation) == pytest.approx(1, abs=1e-6)
    noise = torch.rand(secret.images.shape, generator=torch.Generator().manual_seed(0))
    share = share_of(Reconstruction(noise, labels=secret.labels), observation)
    assert share is not None
    assert share < 0.9


def test_the_share_is_one_less_the_relative_squared_residual(small_case: Callable[..., Case]) -> None:
    observation, secret = seen(small_case())
    guess = (secret.images + 0.1).clamp(0, 1)
    model = simulate(observation).model
    gradients = torch.autograd.grad(
        torch.nn.functional.cross_entropy(model.requires_grad_()(guess), secret.labels), list(model.parameters())
    )
    named = dict(zip((name for name, _ in model.named_parameters()), gradients, strict=True))
    residual = sum(float((named[name] - value).square().sum()) for name, value in observation.gradients.items())
    total = sum(float(value.square().sum()) for value in observation.gradients.values())
    found = share_of(Reconstruction(guess, labels=secret.labels), observation)
    assert found == pytest.approx(1 - residual / total, rel=1e-4)


def test_labels_are_recovered_where_the_attack_used_none(small_case: Callable[..., Case]) -> None:
    observation, secret = seen(small_case())
    assert observation.labels is None
    assert share_of(Reconstruction(secret.images), observation) == pytest.approx(1, abs=1e-6)


def test_without_labels_there_is_no_share(small_case: Callable[..., Case]) -> None:
    observation, secret = seen(small_case())
    part = replace(observation, update={"network.cls_token": observation.update["network.cls_token"]})
    assert share_of(Reconstruction(secret.images), part) is None
    # Of a partial update what was observed is compared, and nothing else.
    assert share_of(truth(secret), part) == pytest.approx(1, abs=1e-6)


def test_an_update_that_is_not_of_this_client_is_not_explained(small_case: Callable[..., Case]) -> None:
    observation, secret = seen(small_case(model="vit_mini_patch4_32"))
    generator = torch.Generator().manual_seed(0)
    noise = {name: torch.randn(value.shape, generator=generator) for name, value in observation.update.items()}
    random = with_explained_share(truth(secret), replace(observation, update=noise))
    normalised = replace(observation, normalisation=Normalisation((0.9, 0.9, 0.9), (0.05, 0.05, 0.05)))
    other = with_explained_share(truth(secret), normalised)
    for found in (random, other):
        assert found.explained is not None
        assert found.explained < EXPLAINED_LIMIT
        assert NOT_EXPLAINED in found.flags
    assert NOT_EXPLAINED not in with_explained_share(truth(secret), observation).flags


@pytest.mark.parametrize("defense", ["naive-shuffle", "mjp", "pixel-shuffle"])
def test_inferred_choices_are_part_of_the_hypothesis(defense: str, small_case: Callable[..., Case]) -> None:
    case = small_case(defense=defense)
    oracle, secret = seen(case, "oracle")
    assert share_of(truth(secret), oracle) == pytest.approx(1, abs=1e-5)
    aware, _ = seen(case, "aware")
    choices = load_case(case, CPU).defense.scored_choices(secret.choices)
    without, found = share_of(truth(secret), aware), share_of(truth(secret, inferred=choices), aware)
    assert without is not None
    assert found is not None
    assert found > without
    # The mask of mjp is inferred before any attack, so that nothing is missing but the order.
    assert found == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("defense", ["sign", "quantization", "pruning:p=0.9", "clipping"])
def test_what_is_done_to_gradients_is_done_to_the_simulated_one(defense: str, small_case: Callable[..., Case]) -> None:
    case = small_case(defense=defense)
    observation, secret = seen(case, "aware")
    aware, unaware = share_of(truth(secret), observation), share_of(truth(secret), seen(case)[0])
    assert aware is not None
    assert unaware is not None
    assert aware > 0.95
    assert aware >= unaware - 1e-6


def test_the_share_stands_in_the_record(small_case: Callable[..., Case], compute: Callable[..., Record]) -> None:
    record = compute(small_case())
    assert all(image.explained is not None for image in record.images)
    # What this attack of the tests returns is no picture of anything.
    assert (NOT_EXPLAINED in record.flags) == any(image.explained < EXPLAINED_LIMIT for image in record.images)  # type: ignore[operator]
