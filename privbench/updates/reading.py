"""Reads the tensors of an update or of weights: safetensors, torch, NumPy archives, and Flower's lists of arrays.

Nothing is unpickled freely: torch files are read with `weights_only=True`, NumPy archives without pickles.
"""

import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from privbench.core import UserError

__all__ = ["ACCEPTED", "named_by_order", "read_tensors"]

ACCEPTED = ".safetensors, a torch file (.pt, .pth, .bin) that loads with weights_only=True, .npz"
_INSIDE = ("state_dict", "model_state_dict", "model", "model_ema", "gradients", "update")
"""Keys below which trainers keep a table of tensors."""
_LARGEST = 16 * 2**30


def read_tensors(source: Any) -> dict[str, Tensor] | list[Tensor]:
    """Tensors by name, or in order where the source has no names.

    Args:
        source: A file; a mapping of names to tensors or arrays; a sequence of tensors or arrays; Flower's `Parameters`,
            `ArrayRecord` or `FitRes`.

    Raises:
        UserError: It cannot be read, or holds anything but numbers.
    """
    if isinstance(source, str | Path):
        return _from_file(Path(source))
    if hasattr(source, "parameters") and hasattr(source, "num_examples"):  # Flower's FitRes
        source = source.parameters
    if hasattr(source, "to_torch_state_dict"):  # Flower's ArrayRecord
        source = source.to_torch_state_dict()
    if hasattr(source, "tensors") and hasattr(source, "tensor_type"):  # Flower's Parameters: arrays as bytes
        source = [np.load(io.BytesIO(part), allow_pickle=False) for part in source.tensors]
    if isinstance(source, Mapping):
        return {str(name): _tensor(value, str(name)) for name, value in source.items()}
    if isinstance(source, Sequence):
        return [_tensor(value, f"number {number}") for number, value in enumerate(source)]
    raise UserError(
        f"an update of type {type(source).__name__}; accepted: a file ({ACCEPTED}), a table of tensors by name, or a list of "
        "arrays in the order of the model's state_dict"
    )


def named_by_order(tensors: Sequence[Tensor], names: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Names a list by the order of a model's state, as Flower's tutorials send it.

    Args:
        tensors: One for each name.
        names: The model's state: name to shape, in order.

    Raises:
        UserError: Number or shapes differ.
    """
    if len(tensors) != len(names):
        raise UserError(
            f"a list of {len(tensors)} arrays for a model with {len(names)} parameters and buffers; accepted: one for each, in "
            "the order of its state_dict"
        )
    for number, (value, (name, shape)) in enumerate(zip(tensors, names.items(), strict=True)):
        if value.shape != shape:
            raise UserError(
                f"array {number} of the list has shape {tuple(value.shape)}, and {name}, which stands there in the model's "
                f"state_dict, has {tuple(shape)}; is it the same model, in the same order?"
            )
    return dict(zip(names, tensors, strict=True))


def _from_file(path: Path) -> dict[str, Tensor] | list[Tensor]:
    if not path.is_file():
        raise UserError(f"there is no file {path}; accepted: {ACCEPTED}")
    if path.stat().st_size > _LARGEST:
        raise UserError(f"{path} has more than {_LARGEST >> 30} GiB; accepted: the update of one model")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix == ".npz":
            return _from_npz(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except SafetensorError as error:
        raise UserError(f"{path} is not a safetensors file ({error})") from None
    except Exception as error:  # a file that is something else makes torch's reader raise almost anything
        said = " ".join(str(error).split())[:160]
        reason = said if " " in said else type(error).__name__
        raise UserError(f"{path} cannot be read ({reason}); accepted: {ACCEPTED}; save the state_dict alone") from None
    if isinstance(content, list | tuple):
        return [_tensor(value, f"number {number}") for number, value in enumerate(content)]
    for key in _INSIDE:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path} does not hold a table of tensors; save the model's state_dict")
    return {str(name): _tensor(value, str(name)) for name, value in content.items()}


def _from_npz(path: Path) -> dict[str, Tensor] | list[Tensor]:
    with zipfile.ZipFile(path) as archive:
        claimed = sum(member.file_size for member in archive.infolist())
    if claimed > _LARGEST:
        raise UserError(f"{path} unpacks to more than {_LARGEST >> 30} GiB; accepted: the update of one model")
    with np.load(path, allow_pickle=False) as arrays:
        found = {name: _tensor(arrays[name], name) for name in arrays.files}
    numbered = [f"arr_{number}" for number in range(len(found))]
    # As `numpy.savez(file, *arrays)` calls them.
    return [found[name] for name in numbered] if set(found) == set(numbered) else found


def _tensor(value: Any, name: str) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().cpu()
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "fiub":
            raise TypeError(f"entries of type {array.dtype}")
        return torch.from_numpy(np.array(array.astype(array.dtype.newbyteorder("=")), copy=True))
    except (TypeError, ValueError) as error:
        raise UserError(f"{name} of the update holds no numbers ({str(error)[:100]}); accepted: tensors and arrays") from None
