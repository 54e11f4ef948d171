"""A case as an animation: the originals above, and below them what the attacker has at each step; WebP, by Pillow."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from privbench.runner.context import CaseContext
from privbench.runner.pictures import Pixels
from privbench.scoring import from_uint8, pair, to_uint8

__all__ = ["ANIMATED_IMAGES", "animation_frames", "case_animation", "comparison_animation"]

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


def case_animation(context: CaseContext, shown: Mapping[int, Mapping[int, Tensor]]) -> bytes | None:
    """The animation of a case's first images, as far as its attack showed them on the way.

    Args:
        context: The case.
        shown: Client batch to what the attack showed of it: step to `[batch, 3, height, width]` uint8.

    Returns:
        The content of an animated WebP file; None where fewer than two steps of all these images were shown. Each guess of a
        batch is paired with the originals, as scoring does.
    """
    size = context.case.batch_size
    batches = range(-(-min(ANIMATED_IMAGES, size * context.batches) // size))
    steps = sorted(set.intersection(*(set(shown.get(batch, {})) for batch in batches)))
    if len(steps) < 2:
        return None
    truths = [context.secret(batch).images.float().cpu() for batch in batches]
    originals = [_pixels(image) for truth in truths for image in to_uint8(truth.clamp(0, 1))]
    frames = []
    for step in steps:
        guesses = [shown[batch][step] for batch in batches]
        paired = [guess[pair(from_uint8(guess), truth)] for guess, truth in zip(guesses, truths, strict=True)]
        frames.append((step, [_pixels(image) for guess in paired for image in guess]))
    return comparison_animation(originals, frames)


def _pixels(image: Tensor) -> Pixels:
    pixels: Pixels = image.permute(1, 2, 0).contiguous().numpy()
    return pixels


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


def animation_frames(content: bytes, side: int) -> list[list[Pixels]]:
    """Takes an animation apart again.

    Args:
        content: The file.
        side: Height of an image in pixels.

    Returns:
        For each frame, first one first, the originals, then what the attacker has of them, each `[height, width, 3]`; nothing
        where the file is no such animation.
    """
    factor, shown = _scale(side)
    frames = []
    try:
        with Image.open(io.BytesIO(content)) as picture:
            count = (picture.width - _GAP) // (shown + _GAP)
            for number in range(getattr(picture, "n_frames", 1)):
                picture.seek(number)
                pixels = np.asarray(picture.convert("RGB"))
                corners = [(_top(row, shown) + _TEXT, _left(column, shown)) for row in range(2) for column in range(count)]
                middle = factor // 2
                frames.append([pixels[y + middle : y + shown : factor, x + middle : x + shown : factor] for y, x in corners])
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
