"""Converts any image that PIL opens to a square of 8-bit pixels."""

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

    In order: rotate as the EXIF data say, scale to 8 bits, crop to a centred square, put
    transparent pixels on white, convert to RGB or, for `GREY`, on to luma (ITU-R 601-2), and resize
    with antialiased Lanczos. An image that already has the size keeps its pixels. An animation
    gives its first frame. 16 bits are scaled by 255/65535. The 32-bit integers of a TIFF are too,
    unless none is above 255: then they are used as 8 bits. Raises ValueError for pixels of unknown
    range (floats, and integers beyond 16 bits), and whatever PIL raises for a damaged image.
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
