"""Labels from the last layer's gradient, through the real client."""

import pytest
import torch

from privbench.client import observe
from privbench.core import ModelSpec, Observation, ThreatModel, UserError, build_defense, resolve_defense
from privbench.label_recovery import LabelRule, recover_labels
from privbench.models import build_model, default_spec


def _observe(labels: list[int], generator: torch.Generator) -> Observation:
    spec: ModelSpec = default_spec("vit_mini_patch4_32")
    victim = build_model(spec).eval()
    images = torch.rand(len(labels), 3, 32, 32, generator=generator)
    observation, _ = observe(
        victim,
        spec,
        build_defense(resolve_defense("none")),
        images,
        torch.tensor(labels),
        declared=(),
        threat_model=ThreatModel(),
        generator=generator,
    )
    return observation


@pytest.mark.parametrize("labels", [[3], [0], [9], [7, 2], [5, 1, 8, 0]])
def test_recovered_labels_of_batches_without_repeats(labels: list[int], generator: torch.Generator) -> None:
    observation = _observe(labels, generator)
    assert observation.labels is None
    assert recover_labels(observation, "network.head.weight").tolist() == sorted(labels)


def test_without_a_bias_gradient_the_weight_is_used() -> None:
    # Non-negative features, as after a ReLU: the row of the true class is the only negative one.
    features = torch.tensor([0.5, 2.0, 1.0])
    residual = torch.tensor([0.2, 0.3, -0.9, 0.4])
    observation = Observation(
        update={"head.weight": residual[:, None] * features},
        model=ModelSpec(name="m", num_classes=4, image_size=8),
        model_state={"head.weight": torch.zeros(4, 3)},
        batch_size=1,
    )
    assert recover_labels(observation, "network.head.weight").tolist() == [2]


def test_more_images_than_classes_is_refused() -> None:
    observation = Observation(
        update={"head.weight": torch.zeros(2, 3)},
        model=ModelSpec(name="m", num_classes=2, image_size=8),
        model_state={"head.weight": torch.zeros(2, 3)},
        batch_size=3,
    )
    with pytest.raises(UserError, match="3 images but 2 classes"):
        recover_labels(observation, "network.head.weight")


def _residuals(generator: torch.Generator, labels: list[int], spread: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradient of a classifier's weight `[10, 24]` and bias for features of both signs and near-uniform probabilities."""
    features = torch.randn(len(labels), 24, generator=generator)
    probabilities = torch.softmax(spread * torch.randn(len(labels), 10, generator=generator), dim=1)
    residual = (probabilities - torch.nn.functional.one_hot(torch.tensor(labels), 10)) / len(labels)
    return residual.T @ features, residual.sum(0)


def _seen(weight: torch.Tensor, bias: torch.Tensor | None, batch: int) -> Observation:
    gradients = {"head.weight": weight} | ({} if bias is None else {"head.bias": bias})
    return Observation(gradients, ModelSpec(name="m", num_classes=len(weight), image_size=8), gradients, batch)


@pytest.mark.parametrize("label", range(10))
def test_idlg_reads_the_weight_alone_whatever_the_signs_of_the_features(label: int, generator: torch.Generator) -> None:
    weight, _ = _residuals(generator, [label], 3.0)
    assert recover_labels(_seen(weight, None, 1), "network.head.weight", "idlg").tolist() == [label]


def test_an_update_with_the_sign_of_a_delta_is_not_read(generator: torch.Generator) -> None:
    weight, bias = _residuals(generator, [3], 3.0)
    with pytest.raises(UserError, match="sign of a weight delta"):
        recover_labels(_seen(-weight, -bias, 1), "network.head.weight")
    noisy = -bias + 0.05 * torch.randn(10, generator=generator)
    # Noise hides the sign: nothing is said, as before.
    assert len(recover_labels(_seen(-weight, noisy, 1), "network.head.weight")) == 1


@pytest.mark.parametrize("labels", [[4, 4, 4, 4], [1, 1, 7, 7, 7, 2], [0, 9], [3], [5] * 7 + [6]])
def test_bias_counts_finds_repeated_labels(labels: list[int], generator: torch.Generator) -> None:
    weight, bias = _residuals(generator, labels, 0.1)
    found = recover_labels(_seen(weight, bias, len(labels)), "network.head.weight", "bias-counts")
    assert found.tolist() == sorted(labels)


def test_more_images_than_classes_are_for_bias_counts(generator: torch.Generator) -> None:
    labels = [0, 1, 2, 2, 3, 4, 5, 6, 7, 8, 9, 9]
    weight, bias = _residuals(generator, labels, 0.05)
    assert recover_labels(_seen(weight, bias, 12), "network.head.weight", "bias-counts").tolist() == labels


@pytest.mark.parametrize(
    ("rule", "classes", "batch", "bias", "words"),
    [("idlg", 10, 2, True, "for one image"), ("idlg", 2, 1, True, "three classes"), ("bias-counts", 10, 2, False, "bias")],
)
def test_a_rule_that_does_not_apply_says_so(rule: LabelRule, classes: int, batch: int, bias: bool, words: str) -> None:
    seen = _seen(torch.zeros(classes, 3), torch.zeros(classes) if bias else None, batch)
    with pytest.raises(UserError, match=words):
        recover_labels(seen, "network.head.weight", rule)


@pytest.mark.parametrize("rule", ["idlg", "last-layer", "bias-counts"])
def test_every_rule_finds_the_label_of_one_image_through_the_client(rule: LabelRule, generator: torch.Generator) -> None:
    for label in (0, 6):
        assert recover_labels(_observe([label], generator), "network.head.weight", rule).tolist() == [label]
