"""An image of whatever kind PIL opens, as the square of bytes that the networks are trained on."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

GREY = 1
COLOUR = 3
# What PIL may take a file for, whatever its name: for others it would run programs (Ghostscript).
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
# Formats whose whole numbers of more than 8 bits are always 16 bits, also where PIL calls them I.
_SIXTEEN_BIT = ("PNG", "PPM")


def as_square(image: Image.Image, size: int, channels: int) -> np.ndarray:
    """The middle square of an image, uint8 (channels, size, size).

    Turned as its EXIF says, cut to a centred square of its shorter side, laid on white where it is
    transparent, turned to RGB, for `GREY` further to its luma (ITU-R 601-2), and resized by
    Lanczos, antialiased. What has the size already keeps its pixels. 16 bits become 8 by 255/65535;
    so do the 32 bits of a TIFF, but where none is above 255 they are bytes already. Of an animation
    the first picture is taken. Raises ValueError for pixels of no known range, which floats and
    other 32 bits are, and whatever PIL raises for a damaged image.
    """
    ImageOps.exif_transpose(image, in_place=True)
    image = _on_white(_middle(_eight_bit(image)))
    if channels == GREY and image.mode != "L":
        image = image.convert("RGB").convert("L")
    elif channels == COLOUR:
        image = image.convert("RGB")
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.LANCZOS)
    pixels = np.asarray(image)
    return pixels[None] if channels == GREY else pixels.transpose(2, 0, 1)


def _middle(image: Image.Image) -> Image.Image:
    # Cutting first spares a panorama from being resized as a whole.
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _eight_bit(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("its pixels are floats, whose range is not known")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image)
    least, most = int(values.min()), int(values.max())
    if least < 0 or most > 65535:
        raise ValueError(f"its pixels are whole numbers from {least} to {most}, beyond 16 bits")
    if image.mode != "I" or image.format in _SIXTEEN_BIT or most > 255:
        values = np.rint(values / 257)
    return Image.fromarray(values.astype(np.uint8))


def _on_white(image: Image.Image) -> Image.Image:
    if image.getbands()[-1] not in ("A", "a") and "transparency" not in image.info:
        return image
    # PIL turns La, grey with alpha multiplied in, into LA alone.
    pixels = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", pixels.size, "white"), pixels).convert("RGB")
