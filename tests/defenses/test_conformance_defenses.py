"""What every defense keeps to. The registry is walked, so a new defense is tested as soon as it is registered."""

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from privbench.adversary import simulate
from privbench.core import (
    DEFENSES,
    AttackerView,
    Defense,
    ModelInput,
    Observation,
    ProtectedInput,
    UserError,
    build_defense,
    resolve_defense,
)
from privbench.models import Victim, client_loss
from tests.conformance import client_update, round_trip, simulated_gradients, some_images

NAMES = DEFENSES.names()
SPECS = [
    *NAMES,
    "mjp:mask_ratio=0.5",
    "naive-shuffle:ratio=0.4",
    "dpsgd:noise_multiplier=0",
    "pruning:scope=global",
    "quantization:rounding=stochastic",
    "sign:magnitude=one",
]
"""At its default ratio MJP covers few of the 64 patches; half of them make every property visible."""
COMPOSED = ["mjp:mask_ratio=0.5+dpsgd", "clipping+gradient-noise:deviation=0.001+pruning:p=0.5", "dpsgd+quantization+sign"]
ADVERSARIES = ["unaware", "aware", "oracle"]


class Ramp(Defense):
    """Darkens from left to right: deterministic, and it does not commute with anything that moves pixels."""

    name: ClassVar[str] = "test-ramp"

    @staticmethod
    def darken(batch: ModelInput) -> ModelInput:
        return ModelInput(batch.images * torch.linspace(1, 0.5, batch.images.shape[-1]), batch.unknown_positions)

    def prepare_batch(self, model: nn.Module, batch: ModelInput, generator: torch.Generator) -> ProtectedInput:
        return ProtectedInput(self.darken(batch))

    def unaware(self, model: nn.Module, observation: Observation) -> AttackerView:
        return AttackerView(lambda given, _: self.darken(given))

    def guarantee(self) -> str:
        return "Promises nothing."


@pytest.fixture
def ramp() -> Iterator[Defense]:
    """A second defense to compose with, registered as long as the test runs."""
    DEFENSES.register(Ramp.name, Ramp)
    yield Ramp()
    DEFENSES.unregister(Ramp.name)


def built(text: str) -> Defense:
    return build_defense(resolve_defense(text))


def prepared(defense: Defense, victim: Victim, images: Tensor, seed: int) -> ProtectedInput:
    return defense.prepare_batch(victim, ModelInput(images), torch.Generator().manual_seed(seed))


def same(first: ProtectedInput, second: ProtectedInput) -> bool:
    pairs = [(first.choices, second.choices), (first.model_input.layer_noise, second.model_input.layer_noise)]
    return torch.equal(first.model_input.images, second.model_input.images) and all(
        one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one) for one, other in pairs
    )


def relative_error(ours: dict[str, Tensor], observation: Observation) -> float:
    difference = torch.stack([(ours[name] - value).norm() for name, value in observation.gradients.items()])
    observed = torch.stack([value.norm() for value in observation.gradients.values()])
    return float(difference.norm() / observed.norm())


def protects_gradients(defense: Defense) -> bool:
    return defense.uses_per_sample_gradients() or type(defense).protect_gradients is not Defense.protect_gradients


def draws_on_gradients(spec: str) -> bool:
    """Whether the same batch is sent differently from draw to draw, though the model is fed the same."""
    if not protects_gradients(built(spec)):
        return False
    one, other = (client_update(spec, seed=seed).observation.gradients for seed in (1, 2))
    return any(not torch.equal(one[name], other[name]) for name in one)


def skip_where_estimated(spec: str, observation: Observation) -> None:
    """Skips where an adversary compares the plain gradient with an estimate of what is behind the observed one."""
    if simulate(observation).view.expected(["network.pos_embed"]):
        pytest.skip(f"of what {spec} sends, adversaries estimate the gradient behind it")


# Parameters and words


@pytest.mark.parametrize("name", NAMES)
def test_the_class_carries_its_registered_name_and_says_what_it_is(name: str) -> None:
    component = DEFENSES.get(name)
    assert issubclass(component, Defense)
    assert component.name == name
    assert (component.__doc__ or "").strip()
    assert [key for key, field in component.model_fields.items() if not field.description] == []


@pytest.mark.parametrize("spec", SPECS)
def test_parameters_are_keyword_only_frozen_and_stored_unchanged(spec: str) -> None:
    defense = built(spec)
    untyped: Any = type(defense)
    with pytest.raises(TypeError):
        untyped(1)
    for key, value in defense.parameters().items():
        with pytest.raises(ValidationError, match="frozen"):
            setattr(defense, key, value)
    assert type(defense).configured(defense.parameters()) == defense
    assert round_trip(defense) == defense
    with pytest.raises(UserError, match="no_such_parameter"):
        type(defense).configured({"no_such_parameter": "1"})


@pytest.mark.parametrize("spec", SPECS)
def test_the_guarantee_is_a_sentence(spec: str) -> None:
    guarantee = built(spec).guarantee()
    assert guarantee[0].isupper()
    assert guarantee.endswith(".")
    assert "\n" not in guarantee
    assert 2 <= len(guarantee.split()) <= 60


@pytest.mark.parametrize("name", NAMES)
def test_it_names_the_victim_that_it_runs_on(name: str) -> None:
    assert built(name).trained_as() in {"none", name}


# What the client does


@pytest.mark.parametrize("spec", SPECS)
def test_the_batch_keeps_shape_range_and_type_and_the_original_is_not_touched(spec: str) -> None:
    update = client_update(spec)
    images = some_images(2)
    copy = images.clone()
    fed = prepared(update.defense, update.victim, images, seed=1).model_input
    assert (fed.images.shape, fed.images.dtype) == (images.shape, images.dtype)
    assert 0 <= fed.images.min() <= fed.images.max() <= 1
    assert torch.equal(images, copy)
    assert update.victim(*fed.arguments).shape == (2, 10)


@pytest.mark.parametrize("spec", SPECS)
def test_choices_follow_the_generator_and_differ_between_generators(spec: str) -> None:
    update = client_update(spec)
    images = some_images(2)
    before = torch.random.get_rng_state()
    first = prepared(update.defense, update.victim, images, seed=0)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert same(first, prepared(update.defense, update.victim, images, seed=0))
    others = (prepared(update.defense, update.victim, images, seed) for seed in range(1, 8 if first.choices else 2))
    if first.choices:
        assert any(not same(first, other) for other in others)
    else:
        assert all(same(first, other) for other in others)


@pytest.mark.parametrize("spec", SPECS)
def test_gradients_keep_names_and_shapes_and_stay_finite(spec: str) -> None:
    update = client_update(spec)
    gradients = {name: value.clone() for name, value in update.observation.gradients.items()}
    sent = update.defense.protect_gradients(gradients, torch.Generator().manual_seed(1))
    assert {name: value.shape for name, value in sent.items()} == {name: value.shape for name, value in gradients.items()}
    assert all(torch.isfinite(value).all() for value in sent.values())


@pytest.mark.parametrize("spec", [*SPECS, *COMPOSED])
def test_what_is_sent_follows_the_generator_and_global_state_stays(spec: str) -> None:
    before = torch.random.get_rng_state()
    one, other = (client_update(spec, batch=2).observation.gradients for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("spec", [*SPECS, *COMPOSED])
def test_the_gradients_that_are_protected_are_not_changed_in_place(spec: str) -> None:
    update = client_update(spec)
    given = {name: torch.randn(2, *value.shape) for name, value in update.observation.gradients.items()}
    copies = {name: value.clone() for name, value in given.items()}
    update.defense.protect_samples(given, torch.Generator().manual_seed(1))
    update.defense.protect_gradients({name: value[0] for name, value in given.items()}, torch.Generator().manual_seed(1))
    assert all(torch.equal(given[name], copies[name]) for name in given)


@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("spec", SPECS)
def test_a_training_step_under_the_defense_moves_every_weight_it_should(spec: str, progress: float) -> None:
    update = client_update(spec)
    victim, images = update.victim, some_images(2)
    batch = update.defense.training_batch(victim, ModelInput(images), torch.Generator().manual_seed(3), progress).model_input
    assert batch.images.shape == images.shape
    loss = client_loss(victim, batch, torch.arange(2))
    extra = update.defense.extra_loss(victim)
    if extra is not None:
        added = extra(victim, batch, progress)
        assert added.shape == ()
        assert float(added.detach()) >= 0
        loss = loss + added
    gradients = torch.autograd.grad(loss, list(victim.parameters()), allow_unused=True)
    assert all(torch.isfinite(value).all() for value in gradients if value is not None)
    assert any(value is not None and value.any() for value in gradients)


# What the attacker simulates


@pytest.mark.parametrize("adversary", ADVERSARIES)
@pytest.mark.parametrize("spec", SPECS)
def test_every_adversary_has_a_forward_pass_that_is_differentiable_in_the_images(spec: str, adversary: str) -> None:
    update = client_update(spec, batch=2, adversary=adversary)
    count = len(update.secret.images)
    images = some_images(count, seed=9).requires_grad_(True)
    simulation = simulate(update.observation)
    chosen, view = update.defense.scored_choices(update.secret.choices), simulation.view
    assert view.inferred.roles <= chosen.roles
    assert view.movable is None or chosen.order is not None
    assert chosen.order is None or chosen.order.dtype == torch.int64
    logits = simulation.logits(images)
    assert logits.shape == (count, 10)
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(logits, torch.arange(count)), [images])
    # Every pixel counts: a simulation that drops some of the candidate could not recover it.
    assert (gradient != 0).flatten(1).double().mean() > 0.99


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("spec", SPECS)
def test_the_oracle_at_the_true_images_computes_the_observed_gradient(spec: str, batch: int) -> None:
    update = client_update(spec, batch=batch, adversary="oracle")
    if draws_on_gradients(spec):
        pytest.skip(f"{spec} sends noise or random rounding, of which only the expectation can be simulated")
    skip_where_estimated(spec, update.observation)
    if "per-sample-clipping-not-simulated" in simulate(update.observation).view.remarks:
        pytest.skip(f"{spec} clips every sample, and only the batch's gradient is simulated")
    ours = simulated_gradients(update.observation, update.secret.images, update.secret.labels)
    assert relative_error(ours, update.observation) < 1e-5


@pytest.mark.parametrize("spec", SPECS)
def test_a_batch_that_was_changed_is_not_explained_by_the_undefended_pass(spec: str) -> None:
    # Of two images mixup may mix each with itself.
    update = client_update(spec, batch=4 if built(spec).smallest_batch() > 1 else 1, adversary="unaware")
    ours = simulated_gradients(update.observation, update.secret.images, update.secret.labels)
    fed = prepared(update.defense, update.victim, update.secret.images, seed=11).model_input
    untouched = not update.secret.choices and not protects_gradients(update.defense) and not fed.layer_noise
    error = relative_error(ours, update.observation)
    assert (error < 1e-5) if untouched else (error > 1e-3)


@pytest.mark.parametrize("adversary", ADVERSARIES)
@pytest.mark.parametrize("spec", [*SPECS, *COMPOSED])
def test_what_the_simulated_client_sends_can_be_differentiated_in_a_single_pass_over_several(spec: str, adversary: str) -> None:
    update = client_update(spec, adversary=adversary)
    view = simulate(update.observation).view
    assert adversary != "unaware" or (
        view.transform_gradient is None and view.entries_are_exact and not view.expected(["network.pos_embed"])
    )
    if view.transform_gradient is None:
        return
    send = view.transform_gradient
    observed = {name: value for name, value in update.observation.gradients.items() if "blocks.0" in name}
    simulated = {name: torch.randn(2, *value.shape) for name, value in observed.items()}

    def product(gradients: dict[str, Tensor]) -> Tensor:
        sent = send(gradients, observed, view.known)
        return torch.stack([(value * observed[name]).sum() for name, value in sent.items()]).sum()

    slopes = torch.func.vmap(torch.func.grad(product))(simulated)
    assert all(torch.isfinite(slope).all() for slope in slopes.values())
    assert any(slope[0].any() and slope[1].any() for slope in slopes.values())
    for name, slope in torch.func.grad(product)({name: value[1] for name, value in simulated.items()}).items():
        torch.testing.assert_close(slopes[name][1], slope, rtol=1e-4, atol=1e-6)


# Composition


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("spec", SPECS)
def test_composition_acts_in_the_order_written(spec: str, first: bool, ramp: Defense) -> None:
    text = f"{spec}+test-ramp" if first else f"test-ramp+{spec}"
    composed, update = built(text), client_update(spec)
    images = some_images(2)
    both = prepared(composed, update.victim, images, seed=4)
    if first:
        alone = prepared(update.defense, update.victim, images, seed=4)
        expected = Ramp.darken(alone.model_input)
    else:
        alone = prepared(update.defense, update.victim, Ramp.darken(ModelInput(images)).images, seed=4)
        expected = alone.model_input
    assert torch.equal(both.model_input.images, expected.images)
    assert both.choices.keys() == alone.choices.keys()
    assert composed.trained_as() == update.defense.trained_as()
    assert all(part.guarantee() in composed.guarantee() for part in (update.defense, ramp))


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("spec", SPECS)
def test_the_oracle_sees_through_a_composition(spec: str, first: bool, ramp: Defense) -> None:
    update = client_update(f"{spec}+test-ramp" if first else f"test-ramp+{spec}", adversary="oracle")
    skip_where_estimated(spec, update.observation)
    ours = simulated_gradients(update.observation, update.secret.images, update.secret.labels)
    if not draws_on_gradients(spec):
        assert relative_error(ours, update.observation) < 1e-5
