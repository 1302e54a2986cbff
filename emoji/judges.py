"""Trains the two judges: which caption belongs to which picture, and is it drawn well?

    python -m emoji.judges a --config emoji/cpu.yaml        (and b)

Contrastive, with hard negatives: a batch is made of small groups that share a concept (and differ in
tone, gender or style) or share all of these (and differ in concept). A caption that leaves things open
can be true of several pictures of a batch; those pairs are left out, not pushed apart.
A: own small network, mask from the alpha channel. B: frozen ImageNet features, computed once, of the
pictures as they are, shifted and resized, and redrawn by the decoder; another seed, another order, other degradations.
"""

from __future__ import annotations

import json
import random
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from emoji import autoencoder, degrade, tokenizer
from emoji.captions import caption
from emoji.config import BUNDLED, Config, from_command_line
from emoji.dataset import build, draw_weights, load_pictures, on_white, read_records
from emoji.evaluation import FOLDER as EVALUATION
from emoji.evaluation import caption_file, held_out, in_chunks
from emoji.export import read_run
from emoji.sources import STYLES
from emoji.split import composable
from emoji.training import Run, device
from hypersd import tensors
from hypersd.judges.emoji import PIXELS, WORDS, Judge, load_judge

FOLDER = BUNDLED / "judges"
GROUP = 4
SEEDS = {"a": 11, "b": 29}
REDRAWN_NOISE = 0.5  # at most, of the latents' deviation
ANYTHING = None
Record = dict[str, Any]


class Draws:
    """Batches with hard negatives."""

    def __init__(self, records: list[Record], config: Config):
        self.records, self.chances = records, draw_weights(records, config.concept_power, config.weights)
        self.by_concept: dict[Any, list[int]] = defaultdict(list)
        self.by_rest: dict[Any, list[int]] = defaultdict(list)
        for index, record in enumerate(records):
            self.by_concept[record["concept"]].append(index)
            if composable(record):
                self.by_rest[(record["gender"], record["tone"], record["style"])].append(index)

    def batch(self, size: int, seed: tuple[int, int]) -> list[int]:
        rng = np.random.default_rng(seed)
        chosen: list[int] = []
        for first in rng.choice(len(self.records), size // GROUP, p=self.chances):
            record = self.records[first]
            kin = self.by_concept[record["concept"]]
            if composable(record) and rng.random() < 0.35:
                kin = self.by_rest[(record["gender"], record["tone"], record["style"])]
            others = rng.permutation([index for index in kin if index != first])[: GROUP - 1]
            chosen += [int(first), *map(int, others)]
        fill = rng.choice(len(self.records), size - len(chosen), p=self.chances)
        return chosen + [int(index) for index in fill]


def state_attributes(record: Record, rng: random.Random) -> tuple[str, tuple]:
    """A caption, more often full than not, and what it states: (concept, gender, tone, style)."""
    full = rng.random() < 0.6
    gender, tone, style = (full or rng.random() < share for share in (0.8, 0.7, 0.6))
    text = caption(record, gender=gender, tone=tone, style=style)
    named = gender and record["name"] != record["concept"]
    stated = (named, tone, style)
    values = (record["gender"], record["tone"], record["style"])
    return text, (record["concept"], *(v if s else ANYTHING for v, s in zip(values, stated, strict=True)))


def truths(stated: list[tuple], records: list[Record]) -> Bool[Tensor, "t p"]:
    """Whether each caption is true of each picture."""
    pictures = [(r["concept"], r["gender"], r["tone"], r["style"]) for r in records]
    table = [[all(s in (ANYTHING, v) for s, v in zip(said, p, strict=True)) for p in pictures] for said in stated]
    return torch.tensor(table)


def contrast(images: Float[Tensor, "b d"], texts: Float[Tensor, "b d"], true: Tensor, scale: Tensor) -> Tensor:
    """InfoNCE both ways; other true pairs are not negatives."""
    logits = scale.clamp(max=4.6).exp() * texts @ images.T
    others = true & ~torch.eye(len(true), dtype=torch.bool)
    logits = logits.masked_fill(others.to(logits.device), -1e4)
    target = torch.arange(len(logits), device=logits.device)
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))


def quality_loss(clean: Tensor, mild: Tensor, strong: Tensor) -> Tensor:
    """Clean above zero, strongly spoilt below, mild in between."""
    sides = F.softplus(-clean).mean() + F.softplus(strong).mean()
    return sides + F.softplus(mild - clean).mean() + F.softplus(strong - mild).mean()


def jiggle(images: Float[Tensor, "b 3 h w"], rng: torch.Generator) -> Tensor:
    """Shifted by up to 4 pixels and scaled by up to 10 %, on white; lightly noised and smoothed."""
    count = len(images)
    place = torch.eye(2, 3).repeat(count, 1, 1)
    place[:, :, 2] = (torch.rand(count, 2, generator=rng) - 0.5) * 0.25
    place[:, [0, 1], [0, 1]] = (0.95 + 0.15 * torch.rand(count, 1, generator=rng)).expand(count, 2)
    grid = F.affine_grid(place, list(images.shape), align_corners=False)
    moved = 1 - F.grid_sample(1 - images, grid, align_corners=False)
    soft = F.interpolate(F.avg_pool2d(moved, 2), images.shape[-2:], mode="bilinear")
    share = 0.5 * torch.rand(count, 1, 1, 1, generator=rng)
    return (torch.lerp(moved, soft, share) + 0.02 * torch.randn(images.shape, generator=rng)).clamp(0, 1)


def as_images(pictures: np.ndarray) -> Float[Tensor, "b 3 h w"]:
    return torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255


def pair_loss(judge: Judge, found: Tensor, records: list[Record], rng: random.Random) -> Tensor:
    said = [state_attributes(record, rng) for record in records]
    texts = judge.embed_texts([text for text, _ in said])
    images = F.normalize(judge.eyes.out(found), dim=-1)
    return contrast(images, texts, truths([stated for _, stated in said], records), judge.log_scale)


Loss = Callable[[int], dict[str, Tensor]]


def loss_a(judge: Judge, rgba: np.ndarray, draws: Draws, size: int) -> Loss:
    def loss(step: int) -> dict[str, Tensor]:
        chosen, rng = draws.batch(size, (SEEDS["a"], step)), torch.Generator().manual_seed(step)
        torch.manual_seed(step)
        both = torch.cat([as_images(on_white(rgba[chosen])), as_images(rgba[chosen])[:, 3:].expand(-1, 3, -1, -1)])
        images, alpha = both.chunk(2)
        moved = jiggle(images, rng).to(judge.log_scale.device)
        pairs = pair_loss(judge, judge.eyes.pool(moved), [draws.records[i] for i in chosen], random.Random(step))
        terms = {"loss": pairs, "pairs": pairs.detach()}
        return terms | side_losses(judge, images[::8], alpha[::8, :1], pairs) if step % 2 == 0 else terms

    return loss


def side_losses(judge: Judge, images: Tensor, alpha: Tensor, pairs: Tensor) -> dict[str, Tensor]:
    """A's quality and mask heads, on a few pictures of every other batch; logged twice over to make up."""
    severity = torch.rand(len(images))
    spoilt = [degrade.spoil(images, s, degrade.FOR_A) for s in (0.5 * severity, 0.5 + 0.5 * severity)]
    images, alpha, *spoilt = (batch.to(pairs.device) for batch in (images, alpha, *spoilt))
    marks = judge.eyes.quality(judge.eyes.pool(torch.cat([images, *spoilt]))).chunk(3)
    mask, quality = F.binary_cross_entropy_with_logits(judge.eyes.draw_mask(images), alpha), quality_loss(*marks)
    return {"loss": pairs + 0.5 * quality + mask, "quality": 2 * quality.detach(), "mask": 2 * mask.detach()}


def loss_b(judge: Judge, bank: dict[str, Tensor], draws: Draws, size: int) -> Loss:
    views, spoilt = bank["views"], bank["spoilt"]  # (pictures, views, f), (some, 3, f)

    def loss(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((SEEDS["b"], step))
        chosen = draws.batch(size, (SEEDS["b"], step))
        found = views[chosen, torch.from_numpy(rng.integers(0, views.shape[1], size))].float()
        found = found.to(judge.eyes.std.device)
        found = found + 0.05 * judge.eyes.std * torch.randn_like(found)
        pairs = pair_loss(judge, judge.eyes.read(found), [draws.records[i] for i in chosen], random.Random(-step))
        some = spoilt[rng.integers(0, len(spoilt), size // 2)].float().to(found.device)
        quality = quality_loss(*judge.eyes.quality(judge.eyes.read(some)).unbind(1))
        return {"loss": pairs + 0.3 * quality, "pairs": pairs, "quality": quality}

    return loss


def redrawer(config: Config) -> Callable[[Tensor], Tensor]:
    """Images through noisy latents and the miniature's decoder: what it draws must not look foreign to a judge."""
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(autoencoder.train(config)).eval().to(device())

    def redraw(images: Float[Tensor, "b 3 h w"]) -> Tensor:
        images = F.interpolate(images, (config.size, config.size), mode="bilinear", antialias=True)
        latents = vae.encode(images.to(device()) * 2 - 1).latent_dist.mean
        noise = REDRAWN_NOISE * torch.rand(len(latents), 1, 1, 1, device=device()) * torch.randn_like(latents)
        return ((vae.decode(latents + noise).sample + 1) / 2).clamp(0, 1)

    return redraw


def feature_bank(config: Config, records: list[Record], rgb: np.ndarray) -> dict[str, Tensor]:
    """Judge B's features of every picture in several views, and of some spoilt ones; computed once, kept."""
    from safetensors.torch import load_file, save_file

    from hypersd.judges.networks import imagenet

    def stage_features(images: Tensor) -> Tensor:
        return imagenet.stage_features(images.to(device())).cpu()

    path = config.work / f"judge-b-features-{config.name}.safetensors"
    if not path.exists():
        rng = torch.Generator().manual_seed(SEEDS["b"])
        torch.manual_seed(SEEDS["b"])
        again = redrawer(config)
        ways = (lambda x: x, lambda x: jiggle(x, rng), again)
        seen = [in_chunks(lambda x, way=way: stage_features(way(x)), rgb).half() for way in ways]
        some = rgb[torch.randperm(len(rgb))[: len(rgb) // 5].numpy()]
        spoilt = [in_chunks(stage_features, some).half()]
        for low in (0.0, 0.5):
            ruin = lambda x, low=low: stage_features(degrade.spoil(x, low + torch.rand(len(x)) / 2, degrade.FOR_B))  # noqa: E731
            spoilt.append(in_chunks(ruin, some).half())
        save_file({"views": torch.stack(seen, 1), "spoilt": torch.stack(spoilt, 1)}, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)
    return load_file(path)


def train(config: Config, name: str) -> Path:
    settings, folder = (config.judge_a if name == "a" else config.judge_b), config.work / f"judge-{name}-{config.name}"
    if (folder / "done").exists():
        return folder
    check_words(tokenizer.train(config))
    out = build(config)
    records = [r for r in read_records(out, config.judge_styles) if r["part"] == "train"]
    rgba = cached_pictures(config, records)
    torch.manual_seed(SEEDS[name])
    judge = Judge(name, config.base.vocabulary).to(device())
    run = Run({"judge": judge}, lr=settings.lr, steps=settings.steps, minutes=settings.minutes, path=folder / "run.pt")
    draws = Draws(records, config)
    if name == "a":
        run.train(loss_a(judge, rgba, draws, settings.batch))
    else:
        bank = feature_bank(config, records, on_white(rgba))
        first = bank["views"][:, 0].float()
        judge.eyes.mean.copy_(first.mean(0))
        judge.eyes.std.copy_(first.std(0) + 1e-2)
        run.train(loss_b(judge, bank, draws, settings.batch))
    (folder / "done").touch()
    return folder


def cached_pictures(config: Config, records: list[Record]) -> np.ndarray:
    """With alpha, at the judges' size; decoding them takes a minute."""
    cache = config.work / f"judge-pictures-{config.name}.npy"
    if not cache.exists():
        np.save(cache.with_suffix(".part.npy"), load_pictures(build(config), records, PIXELS))
        cache.with_suffix(".part.npy").replace(cache)
    return np.load(cache)


def check_words(trained: Path, exported: Path = WORDS) -> None:
    """Judges read the exported base's own words. Raises ValueError where those are not this training's."""
    for file in ("vocab.json", "merges.txt"):
        if not (exported / file).is_file() or (exported / file).read_bytes() != (trained / file).read_bytes():
            raise ValueError(f"{exported / file} is not {trained}'s: export the base first, python -m emoji.export")


def export(config: Config, name: str) -> Path:
    """The judge's weights in half precision, with what it is in the header."""
    from safetensors.torch import save_file

    state = read_run(config.work / f"judge-{name}-{config.name}" / "run.pt")
    weights = {key: value.half().contiguous() for key, value in state["modules"]["judge"].items()}
    styles = [STYLES[key] for key in config.judge_styles]
    trained_on = ", ".join(f"{style.package} ({style.licence}, {style.author})" for style in styles)
    if name == "b":
        trained_on += "; on EfficientNet-lite0 ImageNet features (Apache-2.0)"
    about = {"vocabulary": config.base.vocabulary, "trained_on": trained_on, "licence": "Apache-2.0"}
    about |= {"updates": state["step"], "minutes": round(state["elapsed"] / 60, 1)}
    path = FOLDER / f"{name}.safetensors"
    save_file(weights, path.with_suffix(".part"), metadata={"judge": json.dumps(about), "format": "pt"})
    path.with_suffix(".part").chmod(0o644)
    path.with_suffix(".part").replace(path)
    return path


@torch.no_grad()
def retrieval(judge: Judge, images: Float[Tensor, "n 3 h w"], captions: dict[str, Any]) -> dict[str, float]:
    """R@1 among each picture's 100 captions, overall and against the near ones alone."""
    seen = torch.cat([judge.embed_images(chunk) for chunk in images.split(32)])
    texts = torch.cat(
        [judge.embed_texts(captions["texts"][i : i + 256]) for i in range(0, len(captions["texts"]), 256)]
    )
    hits, near_hits = [], []
    for picture, row in zip(seen, captions["records"], strict=True):
        own, near, far = (texts[row[key]] @ picture for key in ("caption", "near", "far"))
        near_hits.append(bool(own > near.max()))
        hits.append(near_hits[-1] and bool(own > far.max()))
    return {"r_at_1": float(np.mean(hits)), "r_at_1_near": float(np.mean(near_hits)), "pictures": len(hits)}


@torch.no_grad()
def report(config: Config, name: str) -> dict[str, Any]:
    """Retrieval, quality and mask figures on held-out real pictures, to hypersd/bundled/judges/NAME.json."""
    out = build(config)
    kept = held_out(read_records(out, config.styles))
    rgba = load_pictures(out, kept, 64)
    images, judge = as_images(on_white(rgba)), load_judge(name)
    path = EVALUATION / "captions.json.gz"
    captions = tensors.facts(path, "") if path.exists() else caption_file(read_records(out, config.styles))
    found: dict[str, Any] = {"held_out": retrieval(judge, images, captions)}
    torch.manual_seed(0)
    ways = {"own degradations": degrade.FOR_A, "the other judge's": degrade.FOR_B}
    for words, chosen in (ways if name == "a" else dict(zip(ways, reversed(ways.values()), strict=True))).items():
        some = images[:128]
        worse = degrade.spoil(some, torch.rand(len(some)), chosen)
        found[f"clean above spoilt, {words}"] = float((judge.quality(some) > judge.quality(worse)).float().mean())
    if name == "a":
        drawn, true = judge.mask(images[:128]) > 0, as_images(rgba[:128])[:, 3:] > 0.5
        found["mask IoU"] = float(((drawn & true).sum((1, 2, 3)) / (drawn | true).sum((1, 2, 3))).mean())
    (FOLDER / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    return found


def main(name: str, config: Config) -> None:
    train(config, name)
    export(config, name)
    print(json.dumps(report(config, name), indent=1))


if __name__ == "__main__":
    main(sys.argv.pop(1), from_command_line(__doc__))
