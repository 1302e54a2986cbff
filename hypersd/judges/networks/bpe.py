"""CLIP's byte-pair encoding, read without transformers, which takes seconds to import."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from hypersd import tensors

START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"  # CLIP's split


def load(vocabulary: Path, merges: Path, remedy: str) -> Any:
    """A tokenizer from vocab.json and merges.txt. Raises FileNotFoundError or OSError, with the remedy."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    known = tensors.facts(vocabulary, remedy)
    if absent := [mark for mark in (START, END) if mark not in known]:
        raise OSError(f"{vocabulary} is damaged (no {absent[0]!r} in it); {remedy}")
    joins = tensors.merges(merges, known, remedy)
    built = Tokenizer(models.BPE(vocab=known, merges=joins, end_of_word_suffix="</w>"))
    built.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    split = pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True)
    built.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    return built


def encode(words: Any, prompts: Sequence[str], length: int) -> Int[Tensor, "b l"]:
    """Start, words, then end to the full length; longer prompts are cut."""
    start, end = words.token_to_id(START), words.token_to_id(END)
    rows = [[start, *encoded.ids[: length - 2]] for encoded in words.encode_batch(list(prompts))]
    return torch.tensor([row + [end] * (length - len(row)) for row in rows])
