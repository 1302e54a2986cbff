"""What a negative prompt does to the miniature's few-step LoRA through NAG, and what it costs.

    python -m benchmarks.nag [--seeds 16] [--out benchmarks/results/nag.json] [--sheet docs/images/nag.webp]
    python -m benchmarks.nag --cfg LORA    the same of a LoRA that keeps guidance (recipes/cfg.yaml), into cfg.json

Prompts leave one thing open: gender, skin tone or style. The negative prompt names a choice of it, as a word
("woman") or as the prompt completed with it ("a woman cook, 3D style"). Judge B, which never trained anything,
says in how many pictures that choice is the likeliest among all of its kind, and how well they match the
prompt, with the negative prompt and without, on the same seeds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hypersd import bundled
from hypersd.atomic import write_json
from hypersd.draw import png, webp
from hypersd.draw.nag import Nag, steer
from hypersd.draw.pipeline import Drawer, Settings
from hypersd.draw.sheet import Column, Sheet, render
from hypersd.judges.emoji import Judge, load_judge

ROOT = Path(__file__).parents[1]
TONES = ("yellow", "light", "medium-light", "medium", "medium-dark", "dark")
TRADES = ("a{} firefighter", "a{} cook", "a{} pilot", "a{} singer", "a{} farmer", "an{} astronaut")
PEOPLE = ("a woman cook{}, 3D style", "a man farmer{}, flat style", "a woman singer{}, 3D style")
STYLED = ("a woman cook with light skin{}", "a fox{}", "a smiling face{}")
SHOWN = (
    *("a person dancing with light skin, 3D style", "a scientist with light skin, flat style"),
    *("a mage with light skin, flat style", "a person dancing with light skin, flat style"),
    *("an office worker with light skin, flat style", "a technologist with light skin, flat style"),
)
"""Of the sheet. Chosen by eye, among 80 prompts: those where one sees most."""


@dataclass(frozen=True)
class Pair:
    """A prompt, a word for what it leaves open, and the prompt completed in every way, that word's first."""

    kind: str
    prompt: str
    word: str
    completed: tuple[str, ...]


def pairs() -> list[Pair]:
    found = []
    for trade in TRADES:
        sexes = [f"a {sex}{trade.partition('{}')[2]}, 3D style" for sex in ("woman", "man")]
        prompt = f"{trade.format('')}, 3D style"
        found += [Pair("gender", prompt, "woman", (*sexes,)), Pair("gender", prompt, "man", (*reversed(sexes),))]
    for person in PEOPLE:
        found += [_pair("skin", person, [f" with {tone} skin" for tone in TONES], i) for i in (1, 4)]
    for thing in STYLED:
        found += [_pair("style", thing, [", 3D style", ", flat style"], i) for i in (0, 1)]
    return found


def _pair(kind: str, text: str, choices: list[str], i: int) -> Pair:
    others = [text.format(choice) for choice in choices if choice != choices[i]]
    word = choices[i].removeprefix(" with ").removeprefix(", ")
    return Pair(kind, text.format(""), word, (text.format(choices[i]), *others))


@dataclass(frozen=True)
class Way:
    """How to draw with a negative prompt; `plain` is the same without one."""

    label: str
    settings: dict[str, Any]
    negative: str = "caption"
    """Or "word"."""
    lora: bool = True
    guided: bool = False
    """Whether it is guided without a negative prompt too."""
    seeds: int | None = None
    """How many of the seeds, if not all."""

    @property
    def plain(self) -> tuple[bool, int, float]:
        """Whether with the LoRA, the steps, and the guidance."""
        return self.lora, self.settings["steps"], self.settings["guidance_scale"] if self.guided else 1.0


def ways() -> Iterator[Way]:
    for steps in (1, 2, 3, 4):
        for scale in (2, 3, 4, 8):
            yield Way("NAG", {"steps": steps, "nag_scale": scale}, seeds=None if scale == 4 else 8)
        for scale in (2, 4):
            yield Way("NAG", {"steps": steps, "nag_scale": scale}, "word", seeds=8)
        yield Way("guidance", {"steps": steps, "guidance_scale": 1.5}, seeds=8)
    for negative in ("caption", "word"):
        yield Way("base, guidance", {"steps": 25, "guidance_scale": 5}, negative, lora=False, guided=True, seeds=3)


def guided_ways() -> Iterator[Way]:
    """Of a LoRA that keeps guidance, and of the base in as few steps."""
    for steps, guidance, lora in product((4, 8, 12), (3, 5, 8), (True, False)):
        settings, label = {"steps": steps, "guidance_scale": guidance}, "cfg" if lora else "base, guidance"
        for negative in ("caption", "word"):
            yield Way(label, settings, negative, lora=lora, guided=True, seeds=8 if guidance == 5 else 4)


@dataclass
class Bench:
    """The two drawers, the judge, and what was already drawn without a negative prompt."""

    judge: Judge
    seeds: int
    drawers: dict[bool, Drawer] = field(
        default_factory=lambda: {True: Drawer.load("emoji", bundled.LORA), False: Drawer.load("emoji")}
    )
    plain: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = field(default_factory=dict)

    def look(self, lora: bool, prompt: str, count: int, settings: Settings) -> tuple[Tensor, Tensor]:
        """What judge B makes of the pictures of seeds 0, 1, …: their embeddings and their quality."""
        images = self.drawers[lora].draw([prompt] * count, range(count), settings)
        pooled = self.judge.eyes.pool(images)
        embedded = torch.nn.functional.normalize(self.judge.eyes.out(pooled), dim=-1)
        return embedded, self.judge.eyes.quality(pooled).squeeze(-1)

    def without(self, way: Way, prompt: str, count: int) -> tuple[Tensor, Tensor]:
        """Drawn once for all ways that ask; the first seeds of it for a way that asks for fewer."""
        lora, steps, guidance = way.plain
        key = (*way.plain, prompt)
        if key not in self.plain:
            most = self.seeds if lora else count
            self.plain[key] = self.look(lora, prompt, most, Settings(steps=steps, guidance_scale=guidance))
        embedded, quality = self.plain[key]
        return embedded[:count], quality[:count]

    def measure(self, way: Way, pair: Pair, strangers: Sequence[str]) -> dict[str, float]:
        """Of one pair: shares, scores and quality, before and after."""
        count = min(self.seeds, way.seeds or self.seeds)
        negative = pair.completed[0] if way.negative == "caption" else pair.word
        before = self.without(way, pair.prompt, count)
        after = self.look(way.lora, pair.prompt, count, Settings(negative=negative, **way.settings))
        others = [text for text in strangers if text != pair.prompt]
        facts = {"wrong": float(self._score(before[0], others).mean())}
        for when, (embedded, quality) in (("before", before), ("after", after)):
            facts[f"named_{when}"] = float((self._score(embedded, pair.completed).argmax(1) == 0).double().mean())
            facts[f"score_{when}"] = float(self._score(embedded, [pair.prompt]).mean())
            facts[f"quality_{when}"] = float(quality.mean())
        return facts

    def _score(self, embedded: Tensor, texts: Sequence[str]) -> Tensor:
        return embedded @ self.judge.embed_texts(list(texts)).T


def row(bench: Bench, way: Way, asked: Sequence[Pair]) -> dict[str, Any]:
    """The means over pairs, of all and of each kind. `alignment` is 1 before and 0 under other prompts."""
    strangers = list(dict.fromkeys(pair.prompt for pair in asked))
    found = [bench.measure(way, pair, strangers) for pair in asked]
    kinds = {
        kind: [f for f, p in zip(found, asked, strict=True) if p.kind == kind] for kind in ("gender", "skin", "style")
    }
    count = min(bench.seeds, way.seeds or bench.seeds)
    return {**asdict(way), "seeds": count, "all": _means(found), **{kind: _means(f) for kind, f in kinds.items() if f}}


def _means(found: Sequence[dict[str, float]]) -> dict[str, float]:
    mean = {name: statistics.fmean(facts[name] for facts in found) for name in found[0]}
    changes = [facts["named_after"] - facts["named_before"] for facts in found]
    error = statistics.stdev(changes) / len(changes) ** 0.5 if len(changes) > 1 else float("nan")
    mean["alignment"] = (mean["score_after"] - mean["wrong"]) / (mean["score_before"] - mean["wrong"])
    return {
        **{name: round(value, 4) for name, value in mean.items()},
        "pairs": len(found),
        "change_se": round(error, 4),
    }


def cost(drawer: Drawer, batch: int = 16, repeats: int = 7) -> dict[str, float]:
    """CPU milliseconds a picture of one step of the network: alone, with NAG, and with guidance's doubled batch."""
    x_t, t = torch.randn(batch, *drawer.base.latent_shape()), torch.full((batch,), 999)
    cond, two = drawer.base.encode(["a cook"] * batch), drawer.base.encode(["a cook"] * 2 * batch)
    runs: dict[str, tuple[Callable[[], Any], Any]] = {
        "alone": (nullcontext, (x_t, t, cond)),
        "nag": (partial(steer, drawer.base.unet, cond.tokens, Nag(4)), (x_t, t, cond)),
        "guidance": (nullcontext, (torch.cat([x_t, x_t]), torch.cat([t, t]), two)),
    }
    taken: dict[str, list[float]] = {name: [] for name in runs}
    with torch.no_grad(), drawer.on_stage():
        for _ in range(repeats):
            for name, (within, given) in runs.items():
                with within():
                    began = time.process_time()
                    drawer.base.predict(*given)
                    taken[name].append(time.process_time() - began)
    return {name: round(1000 * min(times) / batch, 2) for name, times in taken.items()}


def sheet(drawer: Drawer, steps: int, scale: float) -> Sheet:
    """The same noise in each column: without a negative prompt, away from women, away from men."""
    rows, cells = [], []
    for sex, label in (
        (None, "no negative prompt"),
        ("woman", "negative: “a woman …”"),
        ("man", "negative: “a man …”"),
    ):
        rows.append(label)
        cells.append([png.to_pil(_shown(drawer, prompt, sex, steps, scale)) for prompt in SHOWN])
    columns = [Column(prompt.rpartition(", ")[2], prompt.partition(" with ")[0]) for prompt in SHOWN]
    return Sheet(rows, columns, cells, f"{steps} steps of the distilled model, no guidance, NAG {scale:g}.")


def _shown(drawer: Drawer, prompt: str, sex: str | None, steps: int, scale: float) -> Tensor:
    if sex is None:
        return drawer.draw([prompt], [0], Settings(steps=steps))[0]
    open_word = "person" if "person" in prompt else prompt.split()[0]
    negative = prompt.replace(open_word, sex if open_word == "person" else f"a {sex}", 1)
    return drawer.draw([prompt], [0], Settings(steps=steps, negative=negative, nag_scale=scale))[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--cfg", type=Path, metavar="LORA")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--sheet", type=Path, default=ROOT / "docs" / "images" / "nag.webp")
    asked = parser.parse_args()
    bench, began = Bench(load_judge("b"), asked.seeds), time.process_time()
    if asked.cfg:
        bench.drawers[True] = Drawer.load("emoji", asked.cfg)
    else:
        webp.write(asked.sheet, render(sheet(bench.drawers[True], 4, 3.0)))
    out = asked.out or ROOT / "benchmarks" / "results" / ("cfg.json" if asked.cfg else "nag.json")
    rows = []
    for way in guided_ways() if asked.cfg else ways():
        rows.append(row(bench, way, pairs()))
        facts = rows[-1]["all"]
        print(f"{way.label:<14} {way.settings} {way.negative:<8}", end=" ")
        print(*(f"{name} {facts[name]:.2f}" for name in ("named_before", "named_after", "alignment")), flush=True)
    about = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    about["cpu_minutes"] = round((time.process_time() - began) / 60, 1)
    write_json(out, {"rows": rows, "step_ms": cost(bench.drawers[True]), **about}, indent=None)


if __name__ == "__main__":
    main()
