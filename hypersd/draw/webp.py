"""Sheets as WebP: less than half of a PNG's bytes, for pictures that stay in a repository or on a page."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from hypersd.atomic import write_bytes

QUALITY = 80


def write(path: Path, picture: Image.Image) -> None:
    """Writes by rename: the file is whole or it is not there."""
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "WEBP", quality=QUALITY, method=6)
    write_bytes(path, buffer.getvalue())
