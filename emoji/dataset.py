"""Builds the picture set: sheets of WebP with alpha, one shard a style, and one record a picture.

    python -m emoji.dataset --config emoji/cpu.yaml

Deterministic: rerunning gives the same bytes. `records.json.gz` says where each picture is and what it shows.
"""

from __future__ import annotations

import gzip
import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from emoji import sheets
from emoji.captions import TONES, find_subjects
from emoji.config import Config, from_command_line
from emoji.sources import STYLES, open_style, plain, read_names, slugs
from emoji.split import SPLIT_FILE, make_split, part_of, read_split

RECORDS = "records.json.gz"
BLANK = 0.01  # a picture with less than this share of opaque pixels failed to render


def list_subjects(folder: Path) -> list[dict[str, Any]]:
    """Every emoji with its words: one dict for each code point sequence, in Unicode's order."""
    entries = read_names(folder)
    subjects = find_subjects(entry["label"] for entry in entries)
    found = []
    for entry in entries:
        subject = subjects[entry["label"]]
        shared = {"concept": subject.concept, "gender": subject.gender, "name": subject.name}
        shared |= {"group": entry["group"], "tags": entry.get("tags", [])}
        skins = entry.get("skins", [])
        default = TONES[0] if skins else None
        found.append({**shared, "codepoints": plain(entry["hexcode"]), "label": entry["label"], "tone": default})
        for item in skins:
            tones = {"codepoints": plain(item["hexcode"]), "label": item["label"], "tone": tone_words(item["tone"])}
            found.append({**shared, **tones})
    return found


def tone_words(tone: int | list[int]) -> str:
    """ "dark", or for two people "light and dark"."""
    return " and ".join(TONES[index] for index in ([tone] if isinstance(tone, int) else tone))


def is_blank(picture: Image.Image) -> bool:
    return bool(np.asarray(picture)[..., 3].mean() < 255 * BLANK)


def build_style(key: str, folder: Path, out: Path, size: int) -> list[dict[str, Any]]:
    """Writes one style's shard; returns its records."""
    style, subjects = STYLES[key], list_subjects(folder)
    pictures = open_style(style, folder, slugs(folder, {s["codepoints"]: s["label"] for s in subjects}))
    found: dict[bytes, tuple[dict[str, Any], Image.Image]] = {}  # some sets repeat one picture under several names
    for subject in subjects:
        picture = pictures.read(subject["codepoints"], size)
        if picture and not is_blank(picture):
            found.setdefault(picture.tobytes(), (subject, picture))
    shard, places = sheets.pack([picture for _, picture in found.values()])
    write_bytes(out / f"{key}.shard", shard)
    source = {"style": key, "words": style.words, "package": style.package, "licence": style.licence}
    return [subject | source | place for (subject, _), place in zip(found.values(), places, strict=True)]


def write_bytes(path: Path, data: bytes) -> None:
    """Appears by rename, never half-written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    part.replace(path)


def build(config: Config) -> Path:
    """The dataset's folder, built unless it is there."""
    out, downloads = config.work / f"dataset-{config.stored_size}", config.work / "downloads"
    if (out / RECORDS).exists():
        return out
    with ProcessPoolExecutor(2) as pool:
        jobs = [pool.submit(build_style, key, downloads, out, config.stored_size) for key in STYLES]
        records = [record for job in jobs for record in job.result()]
    split = make_split(records)
    check_split(split)
    for record in records:
        record["part"] = part_of(record, split)
    write_bytes(out / RECORDS, gzip.compress(json.dumps(records, ensure_ascii=False).encode(), mtime=0))
    return out


def check_split(split: dict[str, dict[str, list[str]]], path: Path = SPLIT_FILE) -> None:
    """The tracked split is what everything was trained and measured with: it is never replaced unasked."""
    if split != read_split(path):
        raise ValueError(
            f"these pictures give another split than {path}: the packages or the rule have changed; if that is meant, "
            "write it anew with emoji.split.write_split, and train and measure everything again"
        )


def read_records(out: Path, styles: list[str]) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = json.loads(gzip.decompress((out / RECORDS).read_bytes()))
    return [record for record in records if record["style"] in styles]


def load_pictures(out: Path, records: list[dict[str, Any]], size: int) -> NDArray[np.uint8]:
    """All pictures of `records`, RGBA, (n, size, size, 4)."""
    pictures = np.empty((len(records), size, size, 4), np.uint8)
    for index, picture in sheets.read(out, records, size):
        pictures[index] = picture
    return pictures


def on_white(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGBA (..., 4) composited on white -> RGB (..., 3)."""
    alpha = rgba[..., 3:].astype(np.uint16)
    return ((rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def draw_weights(records: list[dict[str, Any]], power: float, groups: dict[int, float]) -> NDArray[np.float64]:
    """The chance of each picture: by concept first (its picture count to `power`), then evenly within it."""
    counts: dict[str, int] = {}
    for record in records:
        counts[record["concept"]] = counts.get(record["concept"], 0) + 1
    weights = [counts[r["concept"]] ** (power - 1) * groups.get(r["group"], 1.0) for r in records]
    return np.asarray(weights) / np.sum(weights)


if __name__ == "__main__":
    where = build(from_command_line(__doc__))
    print(f"{len(read_records(where, list(STYLES)))} pictures in {where}")
