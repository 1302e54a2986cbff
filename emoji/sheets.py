"""Pictures kept on sheets: 64 of them, of one style, in one WebP with alpha.

A WebP of its own for every picture takes half as much again: its tables are as large as a small
picture's colours.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 8
PLACES = SIDE * SIDE
WEBP = {"quality": 45, "alpha_quality": 10, "method": 6}


def encode(pictures: Sequence[Image.Image]) -> bytes:
    """At most 64 square pictures of one size -> WebP bytes, row by row from the top left."""
    size = pictures[0].width
    rows = -(-len(pictures) // SIDE)
    sheet = Image.new("RGBA", (SIDE * size, rows * size))
    for place, picture in enumerate(pictures):
        sheet.paste(picture, corner(place, size))
    buffer = io.BytesIO()
    sheet.save(buffer, "WEBP", **WEBP)
    return buffer.getvalue()


def pack(pictures: Sequence[Image.Image]) -> tuple[bytes, list[dict[str, int]]]:
    """A shard, which is sheets end to end, and for each picture where its sheet begins, its length and the place."""
    sheets = [encode(pictures[i : i + PLACES]) for i in range(0, len(pictures), PLACES)]
    begins = np.cumsum([0, *map(len, sheets)]).tolist()
    places = [divmod(index, PLACES) for index in range(len(pictures))]
    return b"".join(sheets), [
        {"offset": begins[sheet], "length": len(sheets[sheet]), "place": place} for sheet, place in places
    ]


def corner(place: int, size: int) -> tuple[int, int]:
    row, column = divmod(place, SIDE)
    return column * size, row * size


def cut(sheet: Image.Image, place: int, size: int) -> NDArray[np.uint8]:
    """RGBA of shape (size, size, 4); shrunk in premultiplied alpha, so no dark fringes."""
    stored = sheet.width // SIDE
    left, top = corner(place, stored)
    picture = sheet.crop((left, top, left + stored, top + stored))
    if stored != size:
        picture = picture.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(picture)


def read(folder: Path, records: Sequence[dict[str, Any]], size: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """(index of the record, its picture), sheet by sheet, so each is decoded once."""
    wanted: dict[tuple[str, int, int], list[int]] = defaultdict(list)
    for index, record in enumerate(records):
        wanted[record["style"], record["offset"], record["length"]].append(index)
    shards = {style: (folder / f"{style}.shard").read_bytes() for style, _, _ in wanted}
    for (style, begin, length), indices in wanted.items():
        sheet = Image.open(io.BytesIO(shards[style][begin : begin + length])).convert("RGBA")
        for index in indices:
            yield index, cut(sheet, records[index]["place"], size)
