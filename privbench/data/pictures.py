"""Pictures exactly as some tool left them: for scoring, nothing is cropped, resized or rounded."""

import re
import unicodedata
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from privbench.core.errors import UserError
from privbench.data.archives import read_archive, read_array
from privbench.data.pixels import decode, first_line, left_out_text

__all__ = ["Pictures", "natural_order", "pictures_of", "read_pictures"]

_IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".tif", ".tiff", ".gif")
_ARRAYS = (".npz", ".npy", ".pt", ".pth", ".safetensors")


@dataclass(frozen=True)
class Pictures:
    """Pictures and how they were kept.

    Attributes:
        names: One per picture: the file's name without its ending, or its number in an array.
        images: `[n, 3, height, width]` float32 in [0, 1].
        eight_bit: Whether they hold 8 bits a channel; otherwise they are floats.
        named: Whether the names are those of files; otherwise they are numbers.
        left_out: Files beside them that are no images, in one line; empty where there are none.
    """

    names: tuple[str, ...]
    images: Tensor
    eight_bit: bool
    named: bool
    left_out: str = ""


def read_pictures(path: Path) -> Pictures:
    """Reads a folder of image files, one image file, or an array.

    An array is a `.npz` with `images` (or a single array), a `.npy`, a torch file that loads with `weights_only=True`, or a
    safetensors file with `images` (or a single tensor): `[n, 3, height, width]` or `[n, height, width, 3]`, uint8 or float in
    [0, 1]; one grey channel is repeated.

    Args:
        path: The folder or file.

    Raises:
        UserError: It is not there, holds no pictures, or they are not of one size and in range.
    """
    if path.is_dir():
        found = [file for file in path.iterdir() if file.is_file() and not file.name.startswith(".")]
        files = sorted((file for file in found if _is_image(file)), key=lambda file: natural_order(file.stem))
        if not files:
            raise UserError(f"there are no image files in {path}; accepted: {', '.join(_IMAGES)}")
        return replace(_from_files(files), left_out=left_out_text(path, [file for file in found if not _is_image(file)]))
    if not path.is_file():
        raise UserError(f"there is no {path}; accepted: a folder of images, an image, or {', '.join(_ARRAYS)}")
    if path.suffix.lower() in _IMAGES:
        return _from_files([path])
    if path.suffix.lower() in _ARRAYS:
        return _from_array(_array(path), path)
    raise UserError(f"cannot read {path}; accepted: a folder of images, {', '.join((*_IMAGES, *_ARRAYS))}")


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in _IMAGES


def natural_order(name: str) -> tuple[tuple[int, int | str], ...]:
    """A key for sorting names as people number them: `img_2` before `img_10`."""
    parts = re.findall(r"[0-9]+|[^0-9]+", unicodedata.normalize("NFC", name))
    return tuple((0, int(part)) if part.isdigit() else (1, part) for part in parts)


def _from_files(files: list[Path]) -> Pictures:
    # Some file systems write an umlaut as one character, others as two.
    names = [unicodedata.normalize("NFC", file.stem) for file in files]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UserError(f"{files[0].parent} holds two pictures named {twice}; keep one, for pictures are matched by name")
    arrays = [np.asarray(decode(file, str(file))) for file in files]
    sizes = {array.shape[:2] for array in arrays}
    if len(sizes) > 1:
        shown = ", ".join(f"{height}x{width}" for height, width in sorted(sizes)[:3])
        raise UserError(f"the pictures of {files[0].parent} have different sizes ({shown}); accepted: one size")
    stacked = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)
    return Pictures(tuple(names), stacked.to(torch.float32) / 255, eight_bit=True, named=True)


def _array(path: Path) -> Tensor:
    """The one array of a file, or the one that it calls `images`."""
    try:
        tables: dict[str, Any] = _tables(path)
    except UserError:
        raise
    except Exception as error:  # damaged archives and pickles raise almost anything
        raise UserError(f"cannot read {path} ({first_line(error)[:120]}); write it again") from None
    if "images" not in tables and len(tables) != 1:
        raise UserError(f"{path} holds {', '.join(tables) or 'nothing'}; accepted: one array, or one named images")
    found = tables.get("images", next(iter(tables.values())))
    if isinstance(found, Tensor):
        return found.detach().cpu()
    if found.dtype.kind not in "fiub":
        raise UserError(
            f"{path}: pictures have the type {found.dtype}; accepted: whole numbers from 0 to 255, or float in [0, 1]"
        )
    # torch takes the machine's own order of bytes, and no 16-bit and larger unsigned numbers everywhere.
    native = found.astype(found.dtype.newbyteorder("="), copy=False)
    return torch.from_numpy(np.ascontiguousarray(native.astype(np.int64) if native.dtype.kind == "u" else native))


def _tables(path: Path) -> dict[str, Any]:
    ending = path.suffix.lower()
    if ending == ".safetensors":
        try:
            return dict(load_file(path))
        except SafetensorError as error:
            raise UserError(f"cannot read {path} ({first_line(error)[:120]}); write it again") from None
    if ending in {".pt", ".pth"}:
        content = torch.load(path, map_location="cpu", weights_only=True)
        return dict(content) if isinstance(content, dict) else {"images": content}
    return {"images": read_array(path)} if ending == ".npy" else dict(read_archive(path)[0])


def pictures_of(array: Tensor) -> Pictures:
    """Pictures that a program holds: `[n, 3, height, width]` or `[n, height, width, 3]`, uint8 or float in [0, 1].

    Raises:
        UserError: They are no pictures.
    """
    return _from_array(array.detach().cpu(), "the tensor")


def _from_array(array: Tensor, path: Path | str) -> Pictures:
    if array.ndim != 4 or not {array.shape[1], array.shape[3]} & {1, 3} or 0 in array.shape:
        raise UserError(
            f"{path}: pictures have the shape {tuple(array.shape)}; accepted: [n, 3, height, width] or [n, height, width, 3]"
        )
    if array.shape[1] not in (1, 3):
        array = array.permute(0, 3, 1, 2)
    eight_bit = not array.is_floating_point()
    if array.dtype == torch.bool or array.is_complex():
        raise UserError(
            f"{path}: pictures have the type {array.dtype}; accepted: whole numbers from 0 to 255, or float in [0, 1]"
        )
    if eight_bit and not (int(array.min()) >= 0 and int(array.max()) <= 255):
        raise UserError(
            f"{path}: pictures range from {int(array.min())} to {int(array.max())}; accepted: whole numbers from 0 to 255, or "
            "float in [0, 1]"
        )
    images = array.to(torch.float32) / 255 if eight_bit else array.to(torch.float32)
    if not bool(((images >= 0) & (images <= 1)).all()):  # written so that NaN fails, too
        raise UserError(
            f"{path}: pictures range from {images.min():g} to {images.max():g}; accepted: 0 to 1; clip or un-normalise them"
        )
    return Pictures(
        tuple(map(str, range(len(images)))), images.expand(-1, 3, -1, -1).contiguous(), eight_bit=eight_bit, named=False
    )
