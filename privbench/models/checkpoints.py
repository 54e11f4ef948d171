"""Weights files as people have them: containers opened, prefixes of wrappers taken off, positions resampled on request.

Files are read by safetensors or with `weights_only=True`, never by free pickle: reading a checkpoint runs no code.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from privbench.core import UserError

__all__ = ["CONTAINERS", "RESAMPLED", "fitted_names", "load_state", "resampled_positions"]

CONTAINERS = ("state_dict", "model_state_dict", "model", "model_ema", "state_dict_ema")
"""Keys under which training loops keep a model's weights, in the order in which they are tried."""

RESAMPLED = "resampled:"
"""Before the name of a weights file: its position embedding is resampled to the model's image size."""


def load_state(path: Path) -> dict[str, Tensor]:
    """Reads a table of tensors from safetensors or a torch file, at its top or under one of `CONTAINERS`, nested or not.

    Raises:
        UserError: The file is missing, unreadable, or holds anything but tensors.
    """
    if not path.is_file():
        raise UserError(f"there is no weights file {path}; accepted: embedded, pretrained, a file, or for an attack random")
    try:
        content: Any = load_file(path) if path.suffix == ".safetensors" else _unpickled(path)
    except Exception as error:  # a file that is something else makes torch's reader raise almost anything
        if isinstance(error, UserError):
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{path} is not a safetensors or plain torch weights file ({reason[:120]})") from None
    found = next((content[key] for key in CONTAINERS if _is_table(content) and _is_table(content.get(key))), content)
    if found is not content and not any(isinstance(value, Tensor) for value in found.values()):
        found = next((found[key] for key in CONTAINERS if _is_table(found.get(key))), found)
    if not (_is_table(found) and found and all(isinstance(value, Tensor) for value in found.values())):
        raise UserError(
            f"{path} does not hold a table of tensors{_what_is_there(found)}; accepted: a state_dict, or one under "
            f"{', '.join(CONTAINERS)}; write it with torch.save(model.state_dict(), 'weights.pth')"
        )
    return dict(found)


def _unpickled(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # only the text says that an object was refused
        if "weights_only" not in str(error) and "Unsupported" not in str(error):
            raise
        raise UserError(
            f"{path} holds {_refused(path, str(error))}, and objects run code when they are read; in the program that wrote "
            "it, write the weights alone: torch.save(model.state_dict(), 'weights.pth')"
        ) from None


def _refused(path: Path, message: str) -> str:
    """The refused objects by their full names."""
    try:
        names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # a file of torch's older format, for which there is only the message
        names = re.findall(r"GLOBAL (\S+)", message)[:1]
    return f"Python objects ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})" if names else "Python objects"


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping)


def _what_is_there(content: Any) -> str:
    if not _is_table(content):
        return f" but a {type(content).__name__}"
    return f" but the keys {', '.join(str(key) for key in list(content)[:5])}"[:120] if content else ""


def fitted_names(state: Mapping[str, Tensor], wanted: Iterable[str]) -> dict[str, Tensor]:
    """A state under a model's own names, freed of what wrappers put before them (`module.`, `_orig_mod.`, `model.`, ...).

    Where all the model's names are there behind one prefix, whatever it is, those are taken and the rest, such as another
    network of the training or a metric, is left. Otherwise the state comes back without the prefix that all its names share.

    Args:
        state: As read.
        wanted: The names of the model's parameters and buffers.

    Raises:
        UserError: Several networks in the state have the names that the model has.
    """
    names = list(wanted)
    if not names or set(names) <= state.keys():
        return dict(state)
    last = f".{names[0]}"
    prefixes = sorted(name.removesuffix(names[0]) for name in state if name.endswith(last))
    whole = [prefix for prefix in prefixes if all(f"{prefix}{name}" in state for name in names)]
    if len(whole) > 1:
        raise UserError(
            f"the weights hold {len(whole)} networks of these names, under {' and '.join(whole[:3])}; "
            "write the state_dict of the one that is meant"
        )
    if whole:
        return {name.removeprefix(whole[0]): value for name, value in state.items() if name.startswith(whole[0])}
    for prefix in prefixes:
        if all(name.startswith(prefix) for name in state):
            return {name.removeprefix(prefix): value for name, value in state.items()}
    return dict(state)


def resampled_positions(state: Mapping[str, Tensor], wanted: Mapping[str, torch.Size], prefix_tokens: int) -> dict[str, Tensor]:
    """A state whose position embeddings are resampled to a model's grid, bicubically, as timm does it.

    Args:
        state: By the model's names.
        wanted: The model's shapes.
        prefix_tokens: Rows before the patches', which stay as they are.
    """
    from timm.layers.pos_embed import resample_abs_pos_embed  # importing timm takes a second

    fitted = dict(state)
    for name, value in state.items():
        shape = wanted.get(name)
        if name.rpartition(".")[2] != "pos_embed" or shape is None or shape == value.shape or value.ndim != 3:
            continue
        side = round((shape[1] - prefix_tokens) ** 0.5)
        fitted[name] = resample_abs_pos_embed(value.float(), new_size=[side, side], num_prefix_tokens=prefix_tokens)
    return fitted
