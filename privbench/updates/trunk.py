"""Updates of a trunk: a transformer whose classifier, and so whose loss, nobody but the client knows.

The loss acts on the trunk through the output of its last LayerNorm. Where it reads one token of it, as with the class token of
one image, the gradient of that LayerNorm's bias is the derivative by that output. A classifier that passes back just this makes
the simulated client agree with the observed one, whatever the client's own head is.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from privbench.core import UserError
from privbench.models import Victim

__all__ = ["LABEL", "classifier_for_trunk"]

LABEL = 0
"""The class that such a classifier is made for."""
_NORMS = ("network.fc_norm.bias", "network.norm.bias")


def classifier_for_trunk(victim: Victim, gradients: Mapping[str, Tensor]) -> bool:
    """Gives a model whose classifier is not known one that passes back what the client's passed back.

    With weights `-g` for the class and `g / (classes - 1)` for every other, the derivative of the cross-entropy by the features
    is `g` as long as logits are small, and always points along it.

    Args:
        victim: Its classifier is changed.
        gradients: Of one image, by name.

    Returns:
        Whether that could be read off the gradients.
    """
    name = next((one for one in _NORMS if one in gradients), "")
    try:
        weight, bias = (victim.get_parameter(one) for one in victim.classifier_names())
    except UserError:
        return False
    if not name or weight.shape[1] != len(gradients[name]) or len(weight) < 2:
        return False
    passed = gradients[name].to(weight)
    with torch.no_grad():
        weight.copy_(passed.expand_as(weight) / (len(weight) - 1))
        weight[LABEL] = -passed
        bias.zero_()
    return True
