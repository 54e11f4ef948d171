"""Pictures of a case: reconstructions as lossless files, and what a comparison of original and reconstruction shows."""

import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from privbench.core import Case, ImageResult, Record, UserError
from privbench.runner.context import CaseContext, load_case
from privbench.scoring import to_uint8
from privbench.store.case_folder import repeatable
from privbench.store.layout import RECONSTRUCTIONS

__all__ = ["SHOWN_IMAGES", "Draw", "Pixels", "ShownCase", "picture_names", "png", "read_picture", "shown_case", "shown_results"]

SHOWN_IMAGES = 16
"""At most so many images of a case appear in a comparison picture."""

Pixels = NDArray[np.uint8]
"""One image, `[height, width, 3]`."""


@dataclass(frozen=True)
class ShownCase:
    """What a comparison picture shows of one case; the tuples have one entry per image.

    Attributes:
        case: The case.
        originals: The private images.
        fed: What the client fed its model.
        reconstructions: As saved; None where the attack failed.
        results: Names and scores.
    """

    case: Case
    originals: tuple[Pixels, ...]
    fed: tuple[Pixels, ...]
    reconstructions: tuple[Pixels | None, ...]
    results: tuple[ImageResult, ...]


Draw = Callable[[ShownCase], bytes]
"""Makes a comparison picture: the content of a PNG file."""


def png(image: Tensor) -> bytes:
    """A `[3, height, width]` uint8 image as the content of a PNG file, pixel for pixel."""
    buffer = io.BytesIO()
    Image.fromarray(_pixels(image)).save(buffer, format="PNG")
    return buffer.getvalue()


def picture_names(images: Sequence[str]) -> list[str]:
    """Where the pictures of a case go within its folder, by the names of its images; all are different."""
    stems = [re.sub(r"[^A-Za-z0-9.+_-]+", "-", name).lstrip(".") or "image" for name in images]
    # Names that differ only in characters that a file name cannot have, or in case, would overwrite each other.
    folded = Counter(stem.lower() for stem in stems)
    return [
        f"{RECONSTRUCTIONS}/{stem if folded[stem.lower()] == 1 else f'{stem}-{place}'}.png" for place, stem in enumerate(stems)
    ]


def shown_case(record: Record, *, folder: Path, device: torch.device) -> ShownCase:
    """What a comparison picture shows of a finished case; the client's side is not stored and is computed again.

    Args:
        record: The finished case.
        folder: Its folder.
        device: Where to compute.

    Raises:
        UserError: Data, weights or pictures of the case are gone.
    """
    return shown_results(load_case(repeatable(folder, record).case, device), record.images, folder)


def shown_results(context: CaseContext, results: tuple[ImageResult, ...], folder: Path) -> ShownCase:
    """The same for a case that is loaded already.

    Raises:
        UserError: Pictures of the case are gone.
    """
    shown = results[:SHOWN_IMAGES]
    secrets = [context.secret(batch) for batch in range(shown[-1].batch + 1)]
    return ShownCase(
        case=context.case,
        originals=tuple(_each(secret.images for secret in secrets))[: len(shown)],
        fed=tuple(_each(secret.fed for secret in secrets))[: len(shown)],
        reconstructions=tuple(
            None if image.reconstruction is None else read_picture(folder / image.reconstruction) for image in shown
        ),
        results=shown,
    )


def _each(batches: Iterable[Tensor]) -> Iterator[Pixels]:
    for batch in batches:
        yield from map(_pixels, to_uint8(batch.detach().float().cpu().clamp(0, 1)))


def _pixels(image: Tensor) -> Pixels:
    pixels: Pixels = image.permute(1, 2, 0).contiguous().numpy()
    return pixels


def read_picture(path: Path) -> Pixels:
    """A saved reconstruction, `[height, width, 3]` uint8.

    Raises:
        UserError: It is gone or damaged.
    """
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB"))
    except OSError as error:
        if not path.parent.exists():
            case = path.parent.parent
            raise UserError(
                f"{case} has a record and no pictures, as in a pack; compute the case in a folder, with "
                f"`privbench run --config {case} --output FOLDER`, and name that folder"
            ) from None
        reason = error.strerror or "not an image"
        raise UserError(f"cannot read the picture {path} ({reason}); compute the case again with --force") from None
