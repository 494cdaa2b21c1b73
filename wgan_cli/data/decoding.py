"""Converts images of any kind to 8-bit squares."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

GREY = 1
COLOUR = 3
# The only formats that PIL may open: for others, such as EPS, it would run external programs.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
# Formats whose integers above 8 bits are always 16 bits, even if PIL's mode is I (32 bits).
_SIXTEEN_BIT = ("PNG", "PPM")


def to_square(image: Image.Image, size: int, channels: int) -> np.ndarray:
    """Return the middle square of an image, uint8 (channels, size, size).

    The steps are: rotate by the EXIF orientation, scale to 8 bits, crop to a centred square, blend
    transparent pixels with white, convert to RGB (`COLOUR`) or to luma by ITU-R 601-2 (`GREY`), and
    resize with antialiased Lanczos. Images of the right size are not resized. For an animation, the
    first frame is used. 16-bit pixels are scaled by 255/65535, and so are the 32-bit integers of a
    TIFF if any is above 255. Raises ValueError for pixels of unknown range (floats, and integers
    beyond 16 bits). Errors of PIL for damaged images are passed on.
    """
    ImageOps.exif_transpose(image, in_place=True)
    image = _eight_bit(image)
    # Crop before resizing, so that a panorama is not resized as a whole.
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = _on_white(image.crop((left, top, left + side, top + side)))
    if channels == GREY and image.mode != "L":
        image = image.convert("RGB").convert("L")
    elif channels == COLOUR:
        image = image.convert("RGB")
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.LANCZOS)
    pixels = np.asarray(image)
    return pixels[None] if channels == GREY else pixels.transpose(2, 0, 1)


def _eight_bit(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("its pixels are floats of unknown range")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image)
    least, most = int(values.min()), int(values.max())
    if least < 0 or most > 65535:
        raise ValueError(f"its pixels are integers from {least} to {most}, beyond 16 bits")
    if image.mode != "I" or image.format in _SIXTEEN_BIT or most > 255:
        values = np.rint(values / 257)
    return Image.fromarray(values.astype(np.uint8))


def _on_white(image: Image.Image) -> Image.Image:
    if image.getbands()[-1] not in ("A", "a") and "transparency" not in image.info:
        return image
    # PIL converts La (grey with premultiplied alpha) to LA but not directly to RGBA.
    pixels = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", pixels.size, "white"), pixels).convert("RGB")
