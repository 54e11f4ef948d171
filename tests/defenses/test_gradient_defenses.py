"""The defenses on the gradient: sizes of noise, sparsity, grids, order of a composition, and what an attacker simulates."""

from collections.abc import Iterator, Mapping
from typing import ClassVar

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from privbench.adversary import simulate
from privbench.core import (
    ATTACKS,
    DEFENSES,
    Defense,
    Effect,
    ModelInput,
    ProtectedInput,
    UserError,
    build_defense,
    resolve_defense,
)
from privbench.inversion import Constant, MatchingTerm, Objective, Pixels, SquaredError
from tests.conformance import client_update, small_clients

__all__ = ["small_clients"]

FLAT = {"a": torch.zeros(300, 40), "b": torch.zeros(5000)}


def sent(text: str, gradients: Mapping[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    return build_defense(resolve_defense(text)).protect_gradients(dict(gradients), torch.Generator().manual_seed(seed))


def whole(gradients: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([value.flatten() for value in gradients.values()])


@pytest.fixture
def gradients() -> dict[str, Tensor]:
    """Two parameters of different scale, no two entries of equal magnitude."""
    generator = torch.Generator().manual_seed(3)
    return {"a": torch.randn(50, 40, generator=generator), "b": 1e-3 * torch.randn(999, generator=generator)}


# Noise


@pytest.mark.parametrize("std", [1e-4, 0.3])
def test_noise_is_normal_with_the_deviation_asked_for(std: float) -> None:
    noise = whole(sent(f"gradient-noise:std={std}", FLAT)).double()
    count = len(noise)
    # Chi-square of the variance and Kolmogorov-Smirnov of the shape: both would fail for a deviation 5 % off.
    chance = stats.chi2.cdf(float((noise / std).square().sum()), df=count)
    assert 0.01 < chance < 0.99
    assert stats.kstest((noise / std).numpy(), "norm").pvalue > 0.01
    assert not 0.01 < stats.chi2.cdf(float((noise / std * 1.05).square().sum()), df=count) < 0.99


def test_noise_is_added_drawn_anew_for_every_entry_and_follows_the_seed(gradients: dict[str, Tensor]) -> None:
    one, other, again = (sent("gradient-noise", gradients, seed) for seed in (0, 1, 0))
    assert all(torch.equal(one[name], again[name]) for name in one)
    first, second = (whole(values) - whole(gradients) for values in (one, other))
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.1
    assert len(torch.unique(first)) > 0.99 * len(first)


def test_relative_noise_has_its_share_of_the_norm_whatever_the_size_of_the_gradient(gradients: dict[str, Tensor]) -> None:
    text = "gradient-noise:std=0.2,scale=relative"
    small = {name: 1e-6 * value for name, value in gradients.items()}
    for given in (gradients, small):
        noise = whole(sent(text, given)).double() - whole(given).double()
        # Of 2999 entries: the deviation of the ratio is 0.2 / sqrt(2 n).
        assert float(noise.norm() / whole(given).double().norm()) == pytest.approx(0.2, rel=5 / (2 * len(noise)) ** 0.5)
        # The same deviation in every tensor: a small one drowns first.
        assert float(noise[-999:].std() / noise[:-999].std()) == pytest.approx(1, rel=0.15)


# Clipping


@pytest.mark.parametrize("max_norm", [1e-3, 1.0, 1e4])
def test_clipping_shortens_to_the_bound_and_keeps_the_direction(max_norm: float, gradients: dict[str, Tensor]) -> None:
    before, after = whole(gradients), whole(sent(f"clipping:max_norm={max_norm}", gradients))
    assert float(after.norm()) == pytest.approx(min(max_norm, float(before.norm())), rel=1e-5)
    assert float(torch.cosine_similarity(before, after, dim=0)) == pytest.approx(1, abs=1e-6)
    assert torch.equal(before, after) == (max_norm > before.norm())


def test_clipping_a_gradient_of_zero_sends_zero() -> None:
    assert not whole(sent("clipping", FLAT)).any()


@pytest.mark.parametrize("max_norm", [0.5, 1e9])
def test_a_part_of_the_gradient_is_clipped_as_the_client_clipped_the_whole(max_norm: float) -> None:
    update = client_update(f"clipping:max_norm={max_norm}", adversary="aware")
    view, plain = simulate(update.observation).view, client_update().observation.gradients
    observed = {name: value for name, value in update.observation.gradients.items() if "blocks.1" in name}
    assert view.transform_gradient is not None
    ours = view.transform_gradient({name: plain[name] for name in observed}, observed, view.known)
    for name, value in observed.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-9)


# Pruning


@pytest.mark.parametrize("p", [0.0, 0.29, 0.7, 0.9, 0.999])
def test_pruning_zeroes_exactly_the_share_of_smallest_entries_layer_by_layer(p: float, gradients: dict[str, Tensor]) -> None:
    for name, value in sent(f"pruning:p={p}", gradients).items():
        zeros = int(p * value.numel() + 1e-6)
        assert int((value == 0).sum()) == zeros
        threshold = gradients[name].abs().flatten().sort().values[zeros]
        assert torch.equal(value, torch.where(gradients[name].abs() >= threshold, gradients[name], 0))


def test_global_pruning_compares_all_parameters(gradients: dict[str, Tensor]) -> None:
    pruned = sent("pruning:p=0.5,scope=global", gradients)
    assert int((whole(pruned) == 0).sum()) == len(whole(gradients)) // 2
    # The second parameter is a thousandth of the first one.
    assert int((pruned["b"] != 0).sum()) < 10


def test_pruning_equal_entries_keeps_as_many_as_the_share_allows() -> None:
    assert int((sent("pruning:p=0.75", {"a": torch.ones(8, 5)})["a"] != 0).sum()) == 10


# Grids and signs


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("bits", [2, 3, 8])
def test_quantised_entries_lie_on_the_grid_of_their_parameter(bits: int, rounding: str, gradients: dict[str, Tensor]) -> None:
    for name, value in sent(f"quantization:bits={bits},rounding={rounding}", gradients).items():
        cell = gradients[name].abs().max() / (2 ** (bits - 1) - 1)
        places = value / cell
        torch.testing.assert_close(places, places.round(), rtol=0, atol=1e-4)
        assert len(torch.unique(places.round())) <= 2**bits - 1
        assert value.abs().max() == pytest.approx(float(gradients[name].abs().max()), rel=1e-6)
        widest = 0.5 if rounding == "nearest" else 1.0
        assert float((value - gradients[name]).abs().max() / cell) <= widest + 1e-4


def test_stochastic_rounding_is_right_on_average_and_nearest_is_not() -> None:
    value = {"a": torch.cat([torch.ones(1), torch.full((40_000,), 0.3)])}
    drawn = sent("quantization:bits=2,rounding=stochastic", value)["a"][1:]
    # Of two points, 0 and 1, the upper one with probability 0.3.
    assert stats.binomtest(int(drawn.sum()), len(drawn), 0.3).pvalue > 0.01
    assert not sent("quantization:bits=2", value)["a"][1:].any()
    assert not torch.equal(drawn, sent("quantization:bits=2,rounding=stochastic", value, seed=1)["a"][1:])


def test_a_gradient_of_zero_stays_zero() -> None:
    for text in ("quantization", "quantization:rounding=stochastic", "sign", "sign:magnitude=one", "pruning"):
        assert not whole(sent(text, FLAT)).any()


def test_signs_carry_the_mean_magnitude_of_their_parameter_or_none(gradients: dict[str, Tensor]) -> None:
    for name, value in sent("sign", gradients).items():
        torch.testing.assert_close(value, gradients[name].sign() * gradients[name].abs().mean())
    bare = sent("sign:magnitude=one", gradients)
    assert all(torch.equal(bare[name], value.sign()) for name, value in gradients.items())


# Order


def test_gradient_hooks_act_in_the_order_written(gradients: dict[str, Tensor]) -> None:
    first = sent("pruning:p=0.5+sign", gradients)
    second = sent("sign+pruning:p=0.5", gradients)
    for name, value in gradients.items():
        kept = sent("pruning:p=0.5", {name: value})[name]
        torch.testing.assert_close(first[name].abs().max(), kept.abs().mean())
        torch.testing.assert_close(second[name].abs().max(), value.abs().mean())


@pytest.mark.parametrize(
    "text",
    ["gradient-noise+clipping", "gradient-noise+dpsgd", "clipping+dpsgd", "sign+mjp+dpsgd", "gradient-noise+pruning+clipping"],
)
def test_orders_that_would_void_a_claim_are_refused_in_one_line(text: str) -> None:
    names = text.split("+")
    with pytest.raises(UserError, match=f"{names[-1]} cannot follow {names[0]}.*; write ") as caught:
        resolve_defense(text)
    assert "\n" not in str(caught.value)
    specs = [spec for name in names for spec in resolve_defense(name)]
    with pytest.raises(UserError, match="cannot follow"):
        build_defense(specs)


@pytest.mark.parametrize(
    "text",
    [
        "clipping+gradient-noise",
        "dpsgd+gradient-noise",
        "dpsgd+clipping",
        "dpsgd+sign",
        "mjp+dpsgd",
        "pruning+quantization+sign",
    ],
)
def test_orders_that_keep_every_claim_compose(text: str) -> None:
    assert "epsilon" in build_defense(resolve_defense(text)).guarantee()


class Mixing(Defense):
    """Makes every image the mean of the batch."""

    name: ClassVar[str] = "test-mixing"
    effects: ClassVar[frozenset[Effect]] = frozenset({"mixed-samples"})

    def prepare_batch(self, model: nn.Module, batch: ModelInput, generator: torch.Generator) -> ProtectedInput:
        return ProtectedInput(ModelInput(batch.images.mean(0, keepdim=True).expand_as(batch.images)))

    def guarantee(self) -> str:
        return "Promises nothing."


@pytest.fixture
def mixing() -> Iterator[None]:
    DEFENSES.register(Mixing.name, Mixing)
    yield
    DEFENSES.unregister(Mixing.name)


@pytest.mark.parametrize("text", ["test-mixing+dpsgd", "dpsgd+test-mixing"])
@pytest.mark.usefixtures("mixing")
def test_mixing_samples_does_not_go_with_clipping_each_of_them_wherever_it_is_written(text: str) -> None:
    with pytest.raises(UserError, match=r"dpsgd does not go with test-mixing: .*; leave out one"):
        resolve_defense(text)
    assert len(resolve_defense("test-mixing+clipping")) == 2


@pytest.mark.parametrize(
    "text",
    [
        "gradient-noise:std=0",
        "gradient-noise:std=-1",
        "clipping:max_norm=0",
        "clipping:max_norm=1e-300",
        "pruning:p=1",
        "pruning:p=-0.1",
        "pruning:scope=row",
        "quantization:bits=1",
        "quantization:bits=17",
        "quantization:bits=2.5",
        "sign:magnitude=two",
        "dpsgd:noise_multiplier=-1",
        "dpsgd:max_grad_norm=0",
        "dpsgd:delta=0",
        "dpsgd:delta=1",
        "dpsgd:sample_rate=0",
        "dpsgd:sample_rate=1.1",
        "dpsgd:steps=0",
        "dpsgd:noise_multiplier=inf",
    ],
)
def test_parameters_out_of_range_are_refused_in_one_line(text: str) -> None:
    key = text.partition(":")[2].partition("=")[0]
    with pytest.raises(UserError, match=key) as caught:
        resolve_defense(text)
    assert "\n" not in str(caught.value)


# What the attacker simulates


@pytest.mark.parametrize(
    "defense",
    [
        *("pruning:p=0.5", "quantization:bits=3", "sign", "clipping:max_norm=0.1"),
        *("pruning+sign", "sign+pruning", "quantization:bits=3+sign", "sign+quantization:bits=3"),
    ],
)
def test_the_aware_objective_is_zero_at_the_truth_and_the_unaware_one_is_not(defense: str) -> None:
    losses = {}
    for adversary in ("unaware", "aware"):
        update = client_update(defense, adversary=adversary, labels="known")
        simulation = simulate(update.observation)

        def loss(parameters: Mapping[str, Tensor], images: Tensor, context: Mapping[str, Tensor]) -> Tensor:
            return nn.functional.cross_entropy(simulation.logits(images, context, parameters), context["labels"])  # noqa: B023

        objective = Objective(
            loss, [MatchingTerm("gradient", Constant(1.0), SquaredError())], [], Pixels(), simulation.view.transform_gradient
        )
        parameters = {name: value.detach() for name, value in simulation.model.named_parameters()}
        context = {**simulation.view.known, "labels": update.secret.labels}
        # Two trials: the truth, and something else, which must not fit.
        images = torch.stack([update.secret.images, 1 - update.secret.images])
        losses[adversary] = objective.losses({"pixels": images}, update.observation.gradients, context, parameters)[0]
    # What comes after signs does not see that entries which are zero but for rounding have them by chance.
    assert float(losses["aware"][0] / losses["aware"][1]) < (5e-3 if defense.startswith("sign+") else 1e-6)
    assert float(losses["unaware"][0] / losses["unaware"][1]) > 1e-2


@pytest.mark.parametrize(
    ("defense", "trusted"),
    [
        ("sign", False),
        ("pruning", False),
        ("quantization", False),
        ("quantization:rounding=stochastic", False),
        ("gradient-noise", False),
        ("dpsgd", False),
        ("dpsgd:noise_multiplier=0", True),
        ("clipping", True),
        ("clipping+sign", False),
    ],
)
def test_who_knows_that_entries_were_changed_does_not_take_them_at_their_word(defense: str, trusted: bool) -> None:
    found = {
        adversary: client_update(defense, adversary=adversary).view().entries_are_exact
        for adversary in ("unaware", "aware", "oracle")
    }
    assert found == {"unaware": True, "aware": trusted, "oracle": trusted}


def test_the_shortest_bound_still_sends_every_entry(gradients: dict[str, Tensor]) -> None:
    clipped = sent("clipping:max_norm=1e-6", gradients)
    assert float(whole(clipped).norm()) == pytest.approx(1e-6, rel=1e-5)
    assert bool(whole(clipped).all())


def _compared(defense: str, simulated: Tensor, observed: Tensor) -> Tensor:
    """What an aware attacker compares with the observed gradient."""
    send = simulate(client_update(defense, adversary="aware").observation).view.transform_gradient
    assert send is not None
    return send({"weight": simulated}, {"weight": observed}, {})["weight"]


def test_wrong_signs_count_by_what_they_are_on_the_wrong_side_of_zero() -> None:
    """By hand: magnitudes of mean 2 are scaled to the observed 0.5, so by a quarter."""
    simulated = torch.tensor([4.0, -2.0, 1.0, -1.0], requires_grad=True)
    observed = torch.tensor([0.5, 0.5, -0.5, -0.5])
    compared = _compared("sign", simulated, observed)
    torch.testing.assert_close(compared, observed + torch.tensor([0, -0.5, 0.25, 0]))
    torch.testing.assert_close(_compared("sign", 1000 * simulated, observed), compared)
    # Getting smaller is not getting better.
    (slope,) = torch.autograd.grad((compared - observed).square().sum(), simulated)
    assert abs(float(slope @ simulated.detach())) < 1e-6 < float(slope.norm())
    # What the client sent as zero, or a later defense set to zero, has no wrong side.
    assert _compared("sign", torch.tensor([4.0, -2.0]), torch.tensor([0.5, 0])).tolist() == [0.5, 0]


def test_rounded_entries_count_by_what_they_are_outside_of_their_cell() -> None:
    """By hand: a grid of 7 points whose cells are 1 wide, from -3 to 3."""
    observed = torch.tensor([3.0, 3.0, 3.0, 1.0, 1.0, 0.0, -3.0])
    simulated = torch.tensor([2.6, 3.25, 2.0, 1.4, 2.0, -0.75, -2.0])
    expected = observed + torch.tensor([0, 0.25, -0.5, 0, 0.5, -0.25, 0.5])
    torch.testing.assert_close(_compared("quantization:bits=3", simulated, observed), expected)


@pytest.mark.usefixtures("small_clients")
@pytest.mark.parametrize(
    "attack",
    [pytest.param("dlg", marks=pytest.mark.nightly), "gradinversion", "gradvit", "inverting-gradients", "april-optimisation"],
)
def test_every_attack_by_matching_simulates_what_is_sent(attack: str) -> None:
    images = {}
    for adversary in ("unaware", "aware"):
        update = client_update("pruning:p=0.99", adversary=adversary, labels="known")
        built = ATTACKS.get(attack).from_preset(None, {"steps": 3})
        images[adversary] = built(update.observation, generator=torch.Generator().manual_seed(1)).images
    assert not torch.equal(images["unaware"], images["aware"])


def test_relocation_matching_reads_the_residual_off_the_gradient_only_where_it_believes_it() -> None:
    found = {}
    for adversary in ("unaware", "aware"):
        update = client_update("gradient-noise:std=1", adversary=adversary, labels="known")
        attack = ATTACKS.get("relocation-matching").from_preset(None, {"steps": 1})
        residual = attack._observed_residual(simulate(update.observation), update.observation)
        found[adversary] = residual is not None
    assert found == {"unaware": True, "aware": False}


@pytest.mark.parametrize("adversary", ["unaware", "aware"])
@pytest.mark.parametrize(
    "defense",
    [
        "pruning:p=0.999",
        "quantization",
        "sign:magnitude=one",
        "gradient-noise:std=10",
        "dpsgd",
        "mjp:mask_ratio=0.5+pruning",
    ],
)
@pytest.mark.parametrize("attack", ["closed-form", "subspace"])
def test_closed_forms_degrade_to_images_in_range(attack: str, defense: str, adversary: str) -> None:
    update = client_update(defense, adversary=adversary)
    found = ATTACKS.get(attack)()(update.observation, generator=torch.Generator().manual_seed(1))
    assert torch.isfinite(found.images).all()
    assert 0 <= found.images.min() <= found.images.max() <= 1
    assert (found.images - update.secret.images).square().mean() > 1e-3
