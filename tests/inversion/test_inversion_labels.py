"""Labels from the last layer's gradient, through the real client."""

import pytest
import torch

from privbench.client import observe
from privbench.core import ModelSpec, Observation, ThreatModel, UserError, build_defense, resolve_defense
from privbench.inversion import recover_labels
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
        declared="none",
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
        gradients={"head.weight": residual[:, None] * features},
        model=ModelSpec(name="m", num_classes=4, image_size=8),
        model_state={},
        batch_size=1,
    )
    assert recover_labels(observation, "head.weight").tolist() == [2]


def test_more_images_than_classes_is_refused() -> None:
    observation = Observation(
        gradients={"head.weight": torch.zeros(2, 3)},
        model=ModelSpec(name="m", num_classes=2, image_size=8),
        model_state={},
        batch_size=3,
    )
    with pytest.raises(UserError, match="3 images but 2 classes"):
        recover_labels(observation, "head.weight")
