"""Writes what evaluation needs of the real pictures to hypersd/bundled/evaluation/, under 3 MB.

    python -m emoji.evaluation --config emoji/cpu.yaml

captions.json.gz  `styles`, with source and licence; `texts`; and for each held-out picture its half,
                  caption and attributes, and the 99 other captions that retrieval asks it to be told
                  from: `near` differ in one attribute.
real.safetensors  ImageNet features of 2,048 real pictures, held-out ones first, as coordinates on their
                  128 principal directions: features = mean + coordinates @ basis. (Whole, they are 5 MB.)
                  Once judge B is trained, also its embeddings of those held out.
pictures/         a few dozen held-out pictures, whose sources and licences are in pictures.json
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from emoji.captions import caption, draw_caption
from emoji.config import BUNDLED, Config, from_command_line
from emoji.dataset import build, draw_weights, load_pictures, on_white, read_records, write_bytes
from emoji.sources import STYLES
from emoji.split import HALVES, composable

FOLDER = BUNDLED / "evaluation"
NEAR, OTHERS = 49, 99  # of the 99 distractors
REAL, DIRECTIONS, SHOWN, FAR_POOL = 2048, 128, 48, 400
KEPT = ("concept", "gender", "tone", "style", "name", "group", "codepoints")
Record = dict[str, Any]


def near_captions(record: Record, pool: list[Record], rng: random.Random) -> list[str]:
    """Captions of pictures that share all of tone, gender, concept and style but one, at most NEAR."""
    mine, keys = caption(record), ("concept", "gender", "tone", "style")
    differing: dict[bool, list[str]] = {True: [], False: []}  # by: is it the concept that differs?
    for other in pool:
        changed = [key for key in keys if other[key] != record[key]]
        neutral = "gender" in changed and "person" in (other["gender"], record["gender"])  # not told by the words
        if len(changed) == 1 and not neutral and caption(other) != mine:
            differing[changed == ["concept"]].append(caption(other))
    attributes, concepts = differing[False], sorted(set(differing[True]))
    rng.shuffle(concepts)
    return (sorted(set(attributes)) + concepts)[:NEAR]


def distractors(
    record: Record, pool: list[Record], everything: list[str], rng: random.Random
) -> tuple[list[str], list[str]]:
    near = near_captions(record, pool, rng)
    taken, far = {caption(record), *near}, list[str]()
    while len(near) + len(far) < OTHERS:
        text = rng.choice(everything)
        if text not in taken:
            taken.add(text)
            far.append(text)
    return near, far


def caption_file(records: list[Record]) -> dict[str, Any]:
    """`texts` and `records`: see the module's first lines."""
    texts: dict[str, int] = {}
    pool = [record for record in records if composable(record)]
    groups: dict[str, list[Record]] = defaultdict(list)  # only these can differ in one attribute
    for record in pool:
        groups[record["concept"]].append(record)
    by_rest = defaultdict(list)
    for record in pool:
        by_rest[(record["gender"], record["tone"], record["style"])].append(record)
    everything = [caption(record) for record in random.Random(0).sample(records, min(FAR_POOL, len(records)))]
    found = []
    for record in held_out(records):
        rng = random.Random(caption(record) + record["part"])
        related = groups[record["concept"]] + by_rest[(record["gender"], record["tone"], record["style"])]
        near, far = distractors(record, related, everything, rng)
        row = {"half": record["part"], **{key: record[key] for key in KEPT}}
        row["short"] = draw_caption(record | {"tags": []}, rng)
        row |= {
            name: [texts.setdefault(t, len(texts)) for t in chosen] for name, chosen in (("near", near), ("far", far))
        }
        found.append(row | {"caption": texts.setdefault(caption(record), len(texts))})
    shown = sorted({record["style"] for record in records})
    styles = {key: dataclasses.asdict(STYLES[key]) for key in shown if key in STYLES}
    return {"styles": styles, "texts": list(texts), "records": found}


def held_out(records: list[Record]) -> list[Record]:
    return [record for half in HALVES for record in records if record["part"] == half]


def reference(records: list[Record], config: Config) -> list[Record]:
    """Every held-out picture, then trained-on ones drawn as training draws them."""
    rest = [record for record in records if record["part"] == "train"]
    chances = draw_weights(rest, config.concept_power, config.weights)
    first = held_out(records)[:REAL]
    chosen = np.random.default_rng(config.seed).choice(len(rest), REAL - len(first), replace=False, p=chances)
    return first + [rest[index] for index in chosen]


@torch.no_grad()
def in_chunks(function: Any, pictures: np.ndarray, size: int = 32) -> Tensor:
    """`function` of uint8 RGB pictures, as [0, 1] images, a few at a time."""
    tensors = (
        torch.from_numpy(pictures[i : i + size]).permute(0, 3, 1, 2) / 255 for i in range(0, len(pictures), size)
    )
    return torch.cat([function(chunk) for chunk in tensors])


def compress(features: Float[Tensor, "n f"], directions: int = DIRECTIONS) -> dict[str, Tensor]:
    """mean, basis and coordinates, in half precision."""
    mean = features.mean(0)
    basis = torch.linalg.svd(features - mean, full_matrices=False)[2][:directions]
    parts = {"mean": mean, "basis": basis, "coordinates": (features - mean) @ basis.T}
    return {name: tensor.half().contiguous() for name, tensor in parts.items()}


def real_file(chosen: list[Record], pictures: np.ndarray, captions: dict[str, Any]) -> dict[str, Tensor]:
    """Everything of real.safetensors; judge B's part only when it has been trained."""
    from hypersd.judges.emoji import FOLDER as JUDGES
    from hypersd.judges.emoji import load_judge
    from hypersd.judges.networks import imagenet

    count = len(captions["records"])
    places = torch.full((len(chosen),), -1, dtype=torch.int32)
    places[:count] = torch.tensor([row["caption"] for row in captions["records"]], dtype=torch.int32)
    parts = ["develop", "report", "train"]
    tensors = compress(in_chunks(imagenet.features, pictures))
    tensors |= {"half": torch.tensor([parts.index(r["part"]) for r in chosen], dtype=torch.int8), "caption": places}
    if (JUDGES / "b.safetensors").exists():
        tensors["judge_b"] = in_chunks(load_judge("b").embed_images, pictures[:count]).half()
    return tensors


def write_pictures(records: list[Record], pictures: np.ndarray, folder: Path) -> None:
    rows = []
    for index in np.linspace(0, len(records) - 1, SHOWN).astype(int):
        record, name = records[index], f"{index:04d}.webp"
        (folder / "pictures").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pictures[index]).save(folder / "pictures" / name, "WEBP", quality=90, method=6)
        author = STYLES[record["style"]].author
        rows.append({"file": name, "caption": caption(record), "half": record["part"], "author": author})
        rows[-1] |= {key: record[key] for key in ("codepoints", "package", "licence")}
    write_bytes(folder / "pictures.json", json.dumps(rows, indent=1, ensure_ascii=False).encode())


def write(config: Config, folder: Path = FOLDER) -> Path:
    from safetensors.torch import save_file

    out = build(config)
    records = read_records(out, config.styles)
    chosen, captions = reference(records, config), caption_file(records)
    packed = json.dumps(captions, ensure_ascii=False, separators=(",", ":")).encode()
    write_bytes(folder / "captions.json.gz", gzip.compress(packed, mtime=0))
    pictures = on_white(load_pictures(out, chosen, config.size))
    save_file(real_file(chosen, pictures, captions), folder / "real.part")
    (folder / "real.part").chmod(0o644)
    (folder / "real.part").replace(folder / "real.safetensors")
    write_pictures(chosen[: len(captions["records"])], pictures, folder)
    return folder


if __name__ == "__main__":
    print(write(from_command_line(__doc__)))
