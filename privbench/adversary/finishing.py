"""The last step of an adversary who knows of a shuffle and not its order: it reads the order off the finished picture."""

from dataclasses import replace

import torch

from privbench.adversary.simulation import Simulation
from privbench.core import (
    ModelInput,
    Reconstruction,
)
from privbench.jigsaw import reassembled, unscrambled

__all__ = ["postprocess_reconstruction", "with_pixels_in_place"]


def postprocess_reconstruction(
    reconstruction: Reconstruction, simulation: Simulation, *, generator: torch.Generator
) -> Reconstruction:
    """What an adversary makes of a finished reconstruction of the fed images: patches or pixels in order, findings stated.

    Movable patches are put in order; where there are none, the pixels in them (`with_pixels_in_place`).

    Images whose patches have position rows of their own stand in one order, and their borders decide it together. Patches that
    share the unknown row stand anyhow, anew in each image, because the gradient is blind to their order.

    Args:
        reconstruction: In the order in which the simulated client was fed; its flags are the attack's own.
        simulation: What the adversary believes of this very client.
        generator: Source of the search.

    Returns:
        The same with the view's flags and findings; images and losses too are the same where the adversary knows of nothing
        that is out of place, or has no two patches to tell apart.
    """
    model, view = simulation.model, simulation.view
    movable = view.movable
    if movable is None or model.patch_size is None or movable.sum() < 2:
        found = with_pixels_in_place(replace(reconstruction, inferred=view.inferred), simulation, generator=generator)
    else:
        unknown = view.fed(ModelInput(reconstruction.images)).unknown_positions
        own_rows = unknown is None or not (unknown & movable).any()
        images, order = reassembled(
            reconstruction.images, model.patch_size, movable, generator=generator, jointly=bool(own_rows)
        )
        found = replace(
            reconstruction,
            images=images,
            losses={**reconstruction.losses, "order_cost": order.cost},
            inferred=replace(view.inferred, order=order.undone),
        )
    return replace(found, flags=(*view.flags(found.inferred), *found.flags))


def with_pixels_in_place(
    reconstruction: Reconstruction, simulation: Simulation, *, generator: torch.Generator
) -> Reconstruction:
    """Puts the pixels inside patches in order, where the adversary knows that the client permuted them and not how.

    Args:
        reconstruction: Its patches must be in place, because their borders tell flips and rotations apart.
        simulation: What the adversary believes of this very client.
        generator: Source of the search.

    Returns:
        The same where the adversary knows of no such permutation, or the model has no positions to tell where patches stand.
    """
    model, scrambled = simulation.model, simulation.view.scrambled
    if scrambled is None or model.patch_size is None or model.parts().position is None:
        return reconstruction
    images, undone = unscrambled(reconstruction.images, model.patch_size, scrambled, generator=generator)
    return replace(reconstruction, images=images, inferred=replace(reconstruction.inferred, pixel_order=undone))
