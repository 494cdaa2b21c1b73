"""Sample pictures, scaled down so that hundreds of them fit on a page."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

# Length of the longer side in pixels.
_MAX_SIDE, _MIN_SIDE = 300, 110
# Bytes of all pictures of a page together.
_MAX_BYTES = 6_000_000
# A run's pictures are far smaller. A larger file may be a decompression bomb.
_MAX_PIXELS = 20_000_000


def thumbnail(path: Path, count: int) -> str | None:
    """Return the picture as a data URI, or None where it cannot be read.

    The more pictures there are on the page (`count`), the smaller each is.
    """
    side = max(_MIN_SIDE, min(_MAX_SIDE, round(_MAX_SIDE * (24 / max(count, 1)) ** 0.5)))
    try:
        with Image.open(path, formats=["PNG"]) as opened:
            if not path.is_file() or opened.width * opened.height > _MAX_PIXELS:
                return None
            image = opened.convert("RGB")
    # Pillow raises many kinds of exceptions for damaged files.
    except Exception:
        return None
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    for kind, options in (("PNG", {"optimize": True}), ("JPEG", {"quality": 80})):
        file = io.BytesIO()
        image.save(file, kind, **options)
        if file.tell() * count <= _MAX_BYTES:
            break
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
