"""From the bytes of an image file to the 8-bit square that a model is fed: one rule for every source of images.

The rule: turn the image upright (EXIF), convert it to RGB with 8 bits, cut the largest centred square, resize that square to
the input size with Pillow's antialiased bicubic filter. An image that already has the input size passes through bit for bit.
"""

import io
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from privbench.core.errors import ImageError, UserError

__all__ = ["decode", "first_line", "fit", "left_out_text"]

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "PPM", "TIFF", "GIF")
"""What is decoded; Pillow's rarer formats are left out, since some run other programs on what they are given."""

_SIXTEEN_BIT_FORMATS = ("PNG", "PPM")
"""Formats whose 32-bit grey images hold 16-bit values; elsewhere the range of such values is anyone's guess."""


def first_line(error: BaseException) -> str:
    """Why something failed, on one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (text.strip() or type(error).__name__).splitlines()[0]


def decode(source: Path | bytes, name: str) -> Image.Image:
    """Decodes an image file, turned upright, as 8-bit RGB.

    Grey and palette images are expanded, CMYK is converted, transparent pixels are laid over white, 16 bits are scaled to 8
    with rounding, and of several frames the first is taken. Colour profiles are not applied. Images of up to 178 megapixels
    are read; Pillow takes what is larger for an attack.

    Args:
        source: The file, or its content.
        name: What to call the image in an error.

    Returns:
        An image of mode RGB.

    Raises:
        ImageError: The content is missing, damaged or no image.
        UserError: It has pixels without a defined range.
    """
    try:
        if isinstance(source, Path) and source.exists() and not source.is_file():
            raise ImageError(f"the image {name} is no regular file (a folder, a pipe or a device); take it out")
        with _opened(source) as image:
            eight_bit = _with_eight_bits(image, source, name)
            image.load()
            return _rgb(ImageOps.exif_transpose(eight_bit), image.format, name)
    except UserError:
        raise
    # Pillow's parsers raise whatever they stumble over (OSError, SyntaxError, struct.error, ...): all of it means a bad file.
    except Exception as error:
        reason = first_line(error)
        if isinstance(error, UnidentifiedImageError):
            reason = f"not one of {', '.join(_FORMATS)}"
        raise ImageError(f"cannot decode the image {name} ({reason}); replace the file or take it out") from None


def _opened(source: Path | bytes) -> ImageFile.ImageFile:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_FORMATS)


def _with_eight_bits(image: ImageFile.ImageFile, source: Path | bytes, name: str) -> Image.Image:
    """The same picture, or where it has 16 bits of colour, of which Pillow cuts the lower half off, one of the rounded ones.

    That half is what Pillow reads of the file if it is told the other order of bytes.
    """
    if not image.tile or ";16" not in str(image.tile[0][3]) or image.mode not in ("RGB", "RGBA", "LA"):
        return image
    codec, extents, offset, raw = image.tile[0]
    if raw not in ("RGB;16B", "RGBA;16B"):
        raise UserError(f"the image {name} has 16 bits a channel in a form that is not read ({raw}); write 8 bits, or PNG")
    with _opened(source) as other:
        other.tile = [cast(Any, (codec, extents, offset, raw.replace("16B", "16L")))]
        low = np.asarray(other).astype(np.uint32)
    rounded = Image.fromarray(_rounded(np.asarray(image).astype(np.uint32) * 256 + low), image.mode)
    rounded.info.update(image.info)
    rounded.getexif().update(image.getexif())
    return rounded


def _rounded(values: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
    """16 bits as 8. 65535 = 257 * 255: the division maps black to black and white to white."""
    return ((values + 128) // 257).astype(np.uint8)


def _rgb(image: Image.Image, file_format: str | None, name: str) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and file_format in _SIXTEEN_BIT_FORMATS):
        return Image.fromarray(_rounded(np.asarray(image).astype(np.uint32))).convert("RGB")
    if image.mode in ("I", "F"):
        raise UserError(f"the image {name} has 32-bit pixels of unknown range; accepted: 8 or 16 bits; convert it to PNG")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def left_out_text(place: Path, files: Iterable[Path]) -> str:
    """What is said of files in a folder of images that are none, by ending; empty where there are none."""
    counts = Counter(file.suffix.lower() or "no ending" for file in files)
    if not counts:
        return ""
    total = sum(counts.values())
    shown = ", ".join(f"{count} {ending}" for ending, count in sorted(counts.items()))
    return f"{place}: {total} {'file is' if total == 1 else 'files are'} left out, no images of an accepted kind ({shown})"[
        :300
    ]


def fit(image: Image.Image, image_size: int, name: str) -> NDArray[np.uint8]:
    """Centre square crop, then antialiased bicubic resize; nothing is done to an image of the right size.

    Args:
        image: An RGB image.
        image_size: Height and width that the model takes, in pixels.
        name: What to call the image in an error.

    Returns:
        `[image_size, image_size, 3]`.

    Raises:
        UserError: The image is smaller than the model's input. It is refused, since an enlarged image has no fine detail to
            protect and would make every attack look good.
    """
    width, height = image.size
    side = min(width, height)
    if side < image_size:
        raise UserError(
            f"the image {name} is {width}x{height} pixels, the model needs at least {image_size}x{image_size}; "
            "take it out, or use a model with a smaller input"
        )
    if width != height:
        left, top = (width - side) // 2, (height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    if side != image_size:
        image = image.resize((image_size, image_size), Image.Resampling.BICUBIC)
    return np.asarray(image)
