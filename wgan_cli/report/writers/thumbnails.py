"""Sample pictures, small enough that hundreds of them fit on a page."""

from __future__ import annotations

import base64
import io
from pathlib import Path

# The longer side in pixels, and what all pictures of a page take together.
_LARGEST, _SMALLEST = 300, 110
_BYTES = 6_000_000
# A picture of samples is far smaller; a file that unpacks to more is not one.
_PIXELS = 20_000_000


def thumbnail(path: Path, among: int) -> str | None:
    """The picture as a data URI, one of `among` on the page; None where it cannot be read."""
    from PIL import Image

    side = max(_SMALLEST, min(_LARGEST, round(_LARGEST * (24 / max(among, 1)) ** 0.5)))
    try:
        with Image.open(path, formats=["PNG"]) as opened:
            if not path.is_file() or opened.width * opened.height > _PIXELS:
                return None
            image = opened.convert("RGB")
    # Pillow has no common error for what can be wrong with a file.
    except Exception:
        return None
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    for kind, options in (("PNG", {"optimize": True}), ("JPEG", {"quality": 80})):
        file = io.BytesIO()
        image.save(file, kind, **options)
        if file.tell() * among <= _BYTES or kind == "JPEG":
            break
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
