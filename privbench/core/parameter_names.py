"""Names of parameters: one canonical form, whatever wrapped the model, and whether an update fits a model's state."""

import difflib
from collections.abc import Mapping

import torch
from torch import Tensor

from privbench.core.errors import UserError

__all__ = ["canonical_names", "check_parameter", "short_name", "without_wrapper"]

_PREFIX = "network."
_WRAPPERS = ("module.", "_module.", "_orig_mod.", "model.", "net.", "base_model.")
"""What parallel training, Opacus, compilation, trainers and peft put before the names of a model."""


def short_name(name: str) -> str:
    """A parameter's name within its network."""
    return name.removeprefix(_PREFIX)


def without_wrapper(name: str) -> str:
    """A parameter's name without the prefix of one wrapper."""
    return name.removeprefix(next((one for one in _WRAPPERS if name.startswith(one)), ""))


def canonical_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors by the names of the victim's state: no wrapper's prefix, `network.` before the network's own name.

    Raises:
        UserError: Two names become one.
    """
    found: dict[str, Tensor] = {}
    for given, value in tensors.items():
        name = given
        while not name.startswith(_PREFIX) and (bare := without_wrapper(name)) != name:
            name = bare
        name = _PREFIX + short_name(name)
        if name in found:
            raise UserError(f"two tensors of an update or state are called {short_name(name)} (one of them {given}); keep one")
        found[name] = value
    return found


def check_parameter(name: str, value: Tensor, state: Mapping[str, Tensor]) -> None:
    """Checks one entry of an update against the model's state.

    Raises:
        UserError: It has no place there, another shape, or values that are not finite numbers.
    """
    if name not in state:
        near = difflib.get_close_matches(name, state, n=1, cutoff=0.5)
        hint = f"did you mean {short_name(near[0])}? " if near else ""
        raise UserError(f"the model has no parameter {short_name(name)}; {hint}name the update by the model's own parameters")
    if value.shape != state[name].shape:
        raise UserError(
            f"the update of {short_name(name)} has shape {tuple(value.shape)}, the model's is {tuple(state[name].shape)}"
        )
    if not value.is_floating_point():
        raise UserError(f"the update of {short_name(name)} is of type {value.dtype}; accepted: floating-point numbers")
    if value.device.type != "meta" and not torch.isfinite(value).all():
        raise UserError(f"the update of {short_name(name)} is not finite; check the client's images and weights")
