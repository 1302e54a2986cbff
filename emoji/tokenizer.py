"""Trains the miniature's tokenizer: a small byte-level BPE in CLIP's own file layout.

    python -m emoji.tokenizer --config emoji/cpu.yaml

CLIP's 49,408 words would be half the model. Same rules (lower case, `</w>` at a word's end, same
split), some 1,800 entries, so `CLIPTokenizer.from_pretrained` loads it like any other.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from emoji.captions import levels
from emoji.config import Config, from_command_line
from emoji.dataset import build, read_records, write_bytes
from emoji.sources import STYLES

START, END = "<|startoftext|>", "<|endoftext|>"
# CLIP's split: contractions, letters, single digits, runs of anything else
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def learn_merges(texts: Iterable[str], vocabulary: int) -> list[tuple[str, str]]:
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    split = pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, end_of_word_suffix="</w>", show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in merges]


def vocabulary_of(merges: list[tuple[str, str]], size: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP's order: 256 bytes, the same at a word's end, merges, then start and end."""
    from tokenizers import pre_tokenizers

    bytes_ = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*bytes_, *(byte + "</w>" for byte in bytes_)]
    kept = merges[: size - len(words) - 2]
    words += ["".join(merge) for merge in kept]
    return {word: index for index, word in enumerate(dict.fromkeys([*words, START, END]))}, kept


def write_tokenizer(folder: Path, merges: list[tuple[str, str]], size: int, length: int) -> None:
    vocab, kept = vocabulary_of(merges, size)
    special = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}
    settings: dict[str, Any] = {"tokenizer_class": "CLIPTokenizer", "model_max_length": length, "do_lower_case": True}
    write_bytes(folder / "vocab.json", json.dumps(vocab, ensure_ascii=False).encode())
    lines = "\n".join(["#version: 0.2", *(" ".join(merge) for merge in kept)]) + "\n"
    write_bytes(folder / "merges.txt", lines.encode())
    write_bytes(folder / "special_tokens_map.json", json.dumps(special, indent=2).encode())
    write_bytes(folder / "tokenizer_config.json", json.dumps(special | settings, indent=2).encode())


def corpus(records: list[dict[str, Any]]) -> list[str]:
    """Every picture's fullest caption and its keywords, and every style's words many times."""
    texts = [levels(record)[-1] for record in records]
    tags = [", ".join(tags) for tags in dict.fromkeys(tuple(r["tags"]) for r in records)]
    return texts + tags + [style.words for style in STYLES.values()] * 100


def train(config: Config) -> Path:
    """The tokenizer's folder."""
    if config.start:
        return config.start / "tokenizer"
    out = config.work / f"tokenizer-{config.base.vocabulary}"
    if not (out / "tokenizer_config.json").exists():
        records = read_records(build(config), list(STYLES))
        merges = learn_merges(corpus(records), config.base.vocabulary)
        write_tokenizer(out, merges, config.base.vocabulary, config.base.text_length)
    return out


if __name__ == "__main__":
    print(train(from_command_line(__doc__)))
