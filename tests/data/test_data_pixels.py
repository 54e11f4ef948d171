"""The one rule from file to pixels, for every kind of file."""

import contextlib
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from privbench.core import UserError
from privbench.data.pixels import decode, fit

Picture = Callable[..., Image.Image]

TRANSPOSED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}
"""What a viewer shows for each EXIF orientation, as the EXIF standard defines it."""


def encoded(image: Image.Image, file_format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def pixels(source: Path | bytes) -> np.ndarray:
    image = decode(source, "it")
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize("orientation", TRANSPOSED)
@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_images_are_turned_upright(picture: Picture, orientation: int, file_format: str) -> None:
    image = picture(30, 20)
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = TRANSPOSED[orientation](np.asarray(image))
    assert np.array_equal(pixels(encoded(image, file_format, exif=exif)), upright)


def test_jpeg_orientation_changes_the_shape(picture: Picture) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert pixels(encoded(picture(30, 20), "JPEG", exif=exif)).shape == (30, 20, 3)


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "BMP", "TIFF", "PPM"])
def test_lossless_formats_keep_every_bit(picture: Picture, file_format: str) -> None:
    options = {"lossless": True} if file_format == "WEBP" else {}
    image = picture(33, 21)
    assert np.array_equal(pixels(encoded(image, file_format, **options)), np.asarray(image))


def test_grey_becomes_three_equal_channels(picture: Picture) -> None:
    grey = picture().convert("L")
    result = pixels(encoded(grey, "PNG"))
    assert all(np.array_equal(result[..., channel], np.asarray(grey)) for channel in range(3))


def test_one_bit_becomes_black_and_white() -> None:
    bits = Image.fromarray(np.eye(8, dtype=np.uint8) * 255).convert("1")
    assert np.array_equal(pixels(encoded(bits, "PNG"))[..., 1], np.eye(8) * 255)


def test_palette_is_looked_up() -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    assert (pixels(encoded(image, "PNG")) == [10, 20, 30]).all()


def test_transparent_palette_entry_is_white() -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    assert (pixels(encoded(image, "PNG", transparency=1)) == 255).all()


def test_alpha_is_laid_over_white(picture: Picture) -> None:
    colour = np.asarray(picture())
    alpha = np.zeros(colour.shape[:2], np.uint8)
    alpha[:10], alpha[10:20] = 255, 128
    image = Image.fromarray(np.dstack([colour, alpha]))
    weight = alpha[..., None] / 255
    expected = weight * colour + (1 - weight) * 255
    result = pixels(encoded(image, "PNG"))
    assert np.abs(result - expected).max() <= 1
    assert np.array_equal(result[:10], colour[:10])  # opaque: bit for bit
    assert (result[20:] == 255).all()  # what hides behind full transparency does not show


def test_grey_with_alpha() -> None:
    image = Image.merge("LA", [Image.new("L", (4, 4), 7), Image.new("L", (4, 4), 255)])
    assert (pixels(encoded(image, "PNG")) == 7).all()


def test_cmyk_of_known_colours() -> None:
    # The naive conversion (1 - c)(1 - k): no ink is white, full cyan has no red, full black is black.
    inks = {(0, 0, 0, 0): (255, 255, 255), (255, 0, 0, 0): (0, 255, 255), (0, 0, 0, 255): (0, 0, 0)}
    for ink, colour in inks.items():
        image = Image.new("CMYK", (16, 16), ink)
        assert (pixels(encoded(image, "TIFF")) == colour).all()
        assert np.abs(pixels(encoded(image, "JPEG", quality=100)).astype(int) - colour).max() <= 2


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_grey_is_scaled(file_format: str) -> None:
    levels = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257  # level k of 255, exactly
    result = pixels(encoded(Image.fromarray(levels), file_format))
    assert np.array_equal(result[..., 0], np.arange(256).reshape(16, 16))


def test_sixteen_bit_grey_is_rounded_not_cut() -> None:
    levels = np.array([[128, 129, 65535 - 128, 65535 - 129]], np.uint16)
    assert pixels(encoded(Image.fromarray(levels), "PNG"))[0, :, 0].tolist() == [0, 1, 255, 254]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def sixteen_bit_png(values: "np.ndarray[tuple[int, ...], np.dtype[np.uint16]]", colour_type: int, extra: bytes = b"") -> bytes:
    """A PNG as its standard describes it; Pillow writes none with 16 bits of colour."""

    height, width = values.shape[:2]
    head = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_sixteen_bits_of_colour_are_rounded_as_grey_is() -> None:
    values = np.array([[[0, 128, 129], [65535 - 129, 65535 - 128, 65535], [257 * 7 + 200, 257 * 8 - 100, 12345]]], np.uint16)
    found = np.asarray(decode(sixteen_bit_png(values, 2), "it"))
    assert found.tolist() == np.rint(values / 257).astype(int).tolist()
    opaque = np.concatenate([values, np.full((1, 3, 1), 65535, np.uint16)], 2)
    assert np.array_equal(np.asarray(decode(sixteen_bit_png(opaque, 6), "it")), found)
    clear = np.concatenate([values, np.zeros((1, 3, 1), np.uint16)], 2)
    assert np.asarray(decode(sixteen_bit_png(clear, 6), "it")).tolist() == [[[255] * 3] * 3]
    turned = sixteen_bit_png(values, 2, chunk(b"eXIf", b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 274, 3, 1, 6, 0, 0)))
    assert np.array_equal(np.asarray(decode(turned, "it")), np.rot90(found, -1))


def test_sixteen_bits_that_cannot_be_rounded_are_refused() -> None:
    with pytest.raises(UserError, match=r"the image it has 16 bits a channel in a form that is not read \(LA;16B\); write 8"):
        decode(sixteen_bit_png(np.zeros((2, 2, 2), np.uint16), 4), "it")


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_pixels_of_unknown_range_are_refused(dtype: type) -> None:
    with pytest.raises(UserError, match=r"image it has 32-bit pixels of unknown range.*8 or 16 bits"):
        decode(encoded(Image.fromarray(np.ones((4, 4), dtype)), "TIFF"), "it")


def test_first_frame_of_an_animation(picture: Picture) -> None:
    frames = [picture(seed=seed) for seed in range(3)]
    data = encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:])
    assert np.array_equal(pixels(data), np.asarray(frames[0]))


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM"])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_truncated_files_are_named(picture: Picture, file_format: str, kept: float) -> None:
    data = encoded(picture(64, 64), file_format)
    with pytest.raises(UserError, match=r"^cannot decode the image it \(.*\); replace the file or take it out$") as caught:
        decode(data[: int(len(data) * kept)], "it")
    assert "\n" not in str(caught.value)


def test_damaged_files_never_cause_another_error(picture: Picture) -> None:
    generator = np.random.default_rng(5)
    exif = Image.Exif()
    exif[0x0112] = 6
    for file_format in ("JPEG", "PNG", "WEBP", "TIFF"):
        whole = np.frombuffer(encoded(picture(24, 24), file_format, exif=exif), np.uint8)
        for _ in range(60):
            damaged = whole.copy()
            damaged[generator.integers(0, min(len(whole), 400), 6)] = generator.integers(0, 256, 6)
            with contextlib.suppress(UserError):
                assert decode(damaged.tobytes(), "it").mode == "RGB"


@pytest.mark.parametrize("content", [b"", b"class,index\ncat,3\n", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "notes.png"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"cannot decode the image notes\.png \(.*(not one of PNG, JPEG|truncated)"):
        decode(file, "notes.png")


@pytest.mark.parametrize("file_format", ["TGA", "PCX", "EPS", "PDF"])
def test_rare_formats_are_not_tried(picture: Picture, file_format: str) -> None:
    with pytest.raises(UserError, match="it \\(not one of PNG, JPEG, WEBP, BMP, PPM, TIFF, GIF\\)"):
        decode(encoded(picture(), file_format), "it")


def test_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.png \(No such file or directory\)"):
        decode(tmp_path / "gone.png", "gone.png")


def test_a_hundred_megapixels_are_read_without_a_warning(tmp_path: Path) -> None:
    Image.new("L", (10_000, 10_000), 7).save(tmp_path / "a.png", compress_level=1)
    assert fit(decode(tmp_path / "a.png", "it"), 32, "it").max() == 7


def test_enormous_image_is_refused(picture: Picture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UserError, match="exceeds limit"):
        decode(encoded(picture(), "PNG"), "it")


def test_right_size_passes_bit_for_bit(picture: Picture) -> None:
    image = picture(32, 32)
    assert np.array_equal(fit(image, 32, "it"), np.asarray(image))


@pytest.mark.parametrize(("width", "height"), [(32, 48), (48, 32), (32, 33), (51, 32)])
def test_crop_is_square_and_central(picture: Picture, width: int, height: int) -> None:
    image = picture(width, height)
    left, top = (width - 32) // 2, (height - 32) // 2
    assert np.array_equal(fit(image, 32, "it"), np.asarray(image)[top : top + 32, left : left + 32])


def test_resize_is_antialiased() -> None:
    # A checkerboard of single pixels is grey from afar; without antialiasing it stays black and white.
    board = np.indices((128, 128)).sum(0) % 2 * 255
    result = fit(Image.fromarray(board.astype(np.uint8)).convert("RGB"), 32, "it").astype(float)
    assert np.abs(result[2:-2, 2:-2] - 127.5).max() < 8


def test_resize_matches_a_slow_bicubic(picture: Picture) -> None:
    """Keys' kernel with a = -0.5, stretched by the scale, normalised: written out pixel by pixel."""
    source = np.asarray(picture(20, 20)).astype(float)
    scale = 20 / 8
    weights = np.zeros((8, 20))
    for row in range(8):
        for column in range(20):
            x = abs((column + 0.5 - (row + 0.5) * scale) / scale)
            weights[row, column] = (
                1.5 * x**3 - 2.5 * x**2 + 1 if x < 1 else -0.5 * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0
            )
    weights /= weights.sum(1, keepdims=True)
    expected = np.einsum("ai,bj,ijc->abc", weights, weights, source).clip(0, 255)
    assert np.abs(fit(picture(20, 20), 8, "it") - expected).max() <= 1.5


def test_resize_of_a_mirrored_image_is_mirrored(picture: Picture) -> None:
    image = picture(50, 40)
    assert np.array_equal(fit(ImageOps.mirror(image), 16, "it"), fit(image, 16, "it")[:, ::-1])


def test_small_image_is_refused_with_both_sizes(picture: Picture) -> None:
    with pytest.raises(UserError, match=r"image tiny is 300x31 pixels, the model needs at least 32x32"):
        fit(picture(300, 31), 32, "tiny")
