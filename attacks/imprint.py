"""Reads the imprint layer of a malicious server (Robbing the Fed, Fowl et al., ICLR 2022, arXiv 2110.13057).

Row k of the layer is active for images brighter than its level. The difference of the gradients of two neighbouring rows is
that of the images between their levels; divided by the difference of the bias gradients it is their weighted mean, and for a
single image the image itself.
"""

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from privbench.adversary import simulate
from privbench.core import Attack, Observation, Progress, Reconstruction, UserError

__all__ = ["ReadImprint"]

_WEIGHT, _BIAS = "network.imprint.weight", "network.imprint.bias"


class ReadImprint(Attack):
    """Images between neighbouring levels of an imprint layer."""

    name: ClassVar[str] = "imprint"

    least: Annotated[float, Field(ge=0, lt=1)] = 1e-4
    """Share of the largest difference of bias gradients below which a level holds no image: rounding leaves such ones."""

    def require(self, observation: Observation) -> None:
        """Refuses updates of models without such a layer."""
        if observation.server is None or observation.server.name != "imprint":
            raise UserError("attack imprint reads the layer that a malicious server planted; choose --server imprint with it")
        observation.require_parameters([_WEIGHT, _BIAS], self.name)

    def run(self, observation: Observation, *, generator: torch.Generator, progress: Progress) -> Reconstruction:
        """As many images as the batch has, those of the largest differences; grey where fewer levels hold one."""
        weight, bias = (observation.gradients[name].double() for name in (_WEIGHT, _BIAS))
        rows = torch.cat([weight[:-1] - weight[1:], weight[-1:]])
        sizes = torch.cat([bias[:-1] - bias[1:], bias[-1:]])
        order = sizes.abs().argsort(descending=True)[: observation.batch_size]
        held = order[sizes[order].abs() > self.least * sizes.abs().max()]
        model = simulate(observation).model
        found = (rows[held] / sizes[held, None]).reshape(-1, *observation.image_shape)
        images: Tensor = (found * model.std + model.mean).clamp(0, 1).float()
        missing = observation.batch_size - len(images)
        flags = () if not missing else ("images-share-a-level",)
        grey = torch.full((missing, *observation.image_shape), 0.5, device=images.device)
        return Reconstruction(torch.cat([images, grey]), losses={"levels": float(len(held))}, flags=flags)
