"""What a server that fished for a class reads (Wen et al., ICML 2022, arXiv 2202.00580): one image of a batch, by closed form.

Behind the manipulated classifier the gradient of the batch is that of the images of the wanted class. Where there is one, the
closed form for a single image finds it, whatever the batch's size; the other images stay unknown.
"""

from dataclasses import replace
from typing import ClassVar

import torch

from privbench.attacks.closed_form import ClosedForm
from privbench.core import Attack, Observation, Progress, Reconstruction, UserError

__all__ = ["ReadFished"]


class ReadFished(Attack):
    """The closed form on the gradient of a batch of which one image has a gradient."""

    name: ClassVar[str] = "fishing"

    def require(self, observation: Observation) -> None:
        """Refuses updates of models in which nothing was fished for."""
        if observation.server is None or observation.server.name != "fishing":
            raise UserError(
                "attack fishing needs a server that fished for a class; choose --server fishing:target=CLASS with it"
            )
        ClosedForm().require(_of_one(observation))

    def run(self, observation: Observation, *, generator: torch.Generator, progress: Progress) -> Reconstruction:
        """The fished image first, grey for the others."""
        found = ClosedForm().run(_of_one(observation), generator=generator, progress=progress)
        others = torch.full((observation.batch_size - 1, *observation.image_shape), 0.5, device=found.images.device)
        flags = (*found.flags, "one-image-of-a-batch") if len(others) else found.flags
        return replace(found, images=torch.cat([found.images, others]), labels=None, flags=flags)


def _of_one(observation: Observation) -> Observation:
    """The same as of one image; the closed form does not depend on the gradient's size."""
    return replace(observation, batch_size=1, labels=None)
