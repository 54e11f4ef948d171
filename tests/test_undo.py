"""What a client did to its images is undone as far as the adversary simulates it, and said to be a lower bound where not."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from privbench.core import AttackerView, ModelInput, ScrambledPixels
from privbench.core.patches import rearrange
from privbench.defenses.mixup import mixed, unmixed
from privbench.undo import explains_input, undone, undone_in_any_order
from tests.conformance import some_images

Change = Callable[[Tensor], Tensor]
ORDER = torch.randperm(64, generator=torch.Generator().manual_seed(3))
COLOURS = torch.tensor([[0.6, 0.3, 0.0], [0.1, 0.5, 0.2], [0.0, 0.2, 0.7]])


def believing(change: Change) -> AttackerView:
    """A view whose client changes its images so, and says nothing of the way back."""
    return AttackerView(lambda given, _: ModelInput(change(given.images)))


def tint(images: Tensor) -> Tensor:
    return images * torch.tensor([0.5, 0.9, 0.7])[:, None, None]


def mixed_colours(images: Tensor) -> Tensor:
    return torch.einsum("ij,bjhw->bihw", COLOURS, images)


def gamma(images: Tensor) -> Tensor:
    return (images + 0.05) ** 1.8 / 1.1


@pytest.mark.parametrize(
    "change", [lambda given: given, lambda given: rearrange(given, ORDER, 4), lambda given: given.flip(-1)]
)
def test_what_only_moves_pixels_is_undone_to_the_last_bit(change: Change) -> None:
    images = some_images(2)
    found = undone(believing(change), change(images))
    assert torch.equal(found.images, images)
    assert found.complete


@pytest.mark.parametrize("change", [tint, mixed_colours, gamma])
def test_what_changes_pixels_is_undone_by_optimisation(change: Change) -> None:
    images = some_images(2)
    found = undone(believing(change), change(images))
    assert (found.images - images).abs().max() < 1e-3
    assert found.complete


def test_mixtures_that_come_in_another_order_are_taken_apart() -> None:
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    weights = 0.6 * torch.eye(3) + 0.4 * torch.eye(3)[[1, 0, 2]]
    view = AttackerView(lambda given, _: mixed(given, weights), undo=lambda fed, _: unmixed(fed, weights))
    fed = view.fed(ModelInput(images)).images[[2, 0, 1]]
    found = undone_in_any_order(view, fed)
    # Images that are mixed with each other alike may be exchanged.
    assert min(float((found.images[list(order)] - images).abs().max()) for order in ((0, 1, 2), (1, 0, 2))) < 1e-5
    assert found.complete
    assert undone(view, fed).misfit > 1000 * found.misfit


def test_the_way_back_that_a_defense_names_is_taken() -> None:
    images = some_images()
    known = {"back": 1 / torch.tensor([0.5, 0.9, 0.7])[:, None, None]}
    view = AttackerView(lambda given, _: ModelInput(tint(given.images)), known, undo=lambda fed, known: fed * known["back"])
    assert torch.allclose(undone(view, tint(images)).images, images, atol=1e-6)


def test_what_the_simulated_client_never_feeds_is_not_called_undone() -> None:
    found = undone(believing(lambda given: given / 2), 0.5 + some_images() / 2)
    assert not found.complete
    assert 0 <= found.images.min() <= found.images.max() <= 1


def test_a_batch_is_explained_by_whoever_knows_the_change_and_by_no_other() -> None:
    images = some_images()
    plain, fed = AttackerView(), tint(images)
    assert explains_input(plain, images, images, 4)
    assert explains_input(believing(tint), images, fed, 4)
    assert not explains_input(plain, images, fed, 4)
    assert not explains_input(plain, images, images.flip(-1), 4)
    # Scores that do not depend on the order of patches see through a shuffle.
    assert explains_input(plain, images, rearrange(images, ORDER, 4), 4)
    assert not explains_input(plain, images, rearrange(images, ORDER, 4), None)
    assert explains_input(AttackerView(scrambled=ScrambledPixels("batch")), images, images.flip(-1), 4)
