"""A case as an animation: the originals above, and below them what the attacker has at each step; WebP, by Pillow."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from privbench.plots.image_grid import Pixels

__all__ = ["ANIMATED_IMAGES", "animation_frames", "comparison_animation"]

ANIMATED_IMAGES = 4
"""At most so many images of a case move."""
_SIDE = 128
_GAP = 6
_TEXT = 18
_FRAME = 160
"""Milliseconds of a frame."""
_HOLD = 1600
"""Milliseconds of the last one."""
_QUALITY = 80


def comparison_animation(originals: Sequence[Pixels], steps: Sequence[tuple[int, Sequence[Pixels]]]) -> bytes:
    """Draws an animation.

    Args:
        originals: The private images, at least one, all of one size; the first four are shown.
        steps: Step, and the guess for each of these images at it.

    Returns:
        The content of an animated WebP file, which starts again when it is over; whole factors enlarge small images.
    """
    originals = originals[:ANIMATED_IMAGES]
    factor, side = _scale(originals[0].shape[0])
    frames = []
    for step, guesses in steps:
        frame = Image.new("RGB", (_left(len(originals), side), _top(2, side)), "white")
        pen = ImageDraw.Draw(frame)
        font = ImageFont.load_default(12)
        pen.text((_GAP, 2), "original", fill="#444444", font=font)
        pen.text((_GAP, _top(1, side) + 2), f"reconstruction, step {step}", fill="#444444", font=font)
        for row, images in enumerate((originals, guesses)):
            for column, image in enumerate(images[: len(originals)]):
                frame.paste(_sized(image, factor, side), (_left(column, side), _top(row, side) + _TEXT))
        frames.append(frame)
    buffer = io.BytesIO()
    durations = [_FRAME] * (len(frames) - 1) + [_HOLD]
    first, *others = frames
    first.save(buffer, "WEBP", save_all=True, append_images=others, duration=durations, loop=0, quality=_QUALITY, method=4)
    return buffer.getvalue()


def animation_frames(content: bytes, side: int) -> list[Pixels]:
    """What the attacker has of the first image on each frame of `comparison_animation`.

    Args:
        content: The file.
        side: Height of an image in pixels.

    Returns:
        Images `[height, width, 3]`, first frame first; nothing where the file is no such animation.
    """
    factor, shown = _scale(side)
    left, top = _left(0, shown), _top(1, shown) + _TEXT
    frames = []
    try:
        with Image.open(io.BytesIO(content)) as picture:
            for number in range(getattr(picture, "n_frames", 1)):
                picture.seek(number)
                pixels = np.asarray(picture.convert("RGB"))
                frames.append(pixels[top + factor // 2 : top + shown : factor, left + factor // 2 : left + shown : factor])
    except (OSError, EOFError):
        return []
    return frames


def _scale(side: int) -> tuple[int, int]:
    """The whole factor of enlargement and the side in pixels of the animation; large images are reduced to it."""
    factor = max(1, _SIDE // side)
    return factor, min(factor * side, 2 * _SIDE)


def _left(column: int, side: int) -> int:
    return _GAP + column * (side + _GAP)


def _top(row: int, side: int) -> int:
    return row * (side + _TEXT + _GAP)


def _sized(image: Pixels, factor: int, side: int) -> Image.Image:
    enlarged = Image.fromarray(np.ascontiguousarray(image.repeat(factor, axis=0).repeat(factor, axis=1)))
    return enlarged if enlarged.height == side else enlarged.resize((side, side), Image.Resampling.BOX)
