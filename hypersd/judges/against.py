"""Whether a picture shows its own prompt rather than one in which a single word is another.

A judge's score is mostly what a picture is of: a skin one shade too dark costs little of it. Beside the prompts that
differ in that word alone it is all that counts (InfoNCE, van den Oord et al. 2018, arXiv 1807.03748; with exchanged
words as in Yuksekgonul et al. 2023, arXiv 2210.01936).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from hypersd.judges import Cosine

Words = Sequence[Sequence[str]]
"""Groups of words, or of phrases, each of which may stand where another of its group does."""


def exchanged(prompt: str, groups: Words) -> list[str]:
    """All prompts that differ from this one in one word: for each group the first of its words there, exchanged."""
    found = []
    for group in groups:
        longest_first = sorted(group, key=len, reverse=True)
        there = re.search(rf"(?<![\w-])({'|'.join(map(re.escape, longest_first))})(?![\w-])", prompt)
        if there:
            before, word, after = prompt[: there.start()], there[0], prompt[there.end() :]
            found += [before + other + after for other in group if other != word]
    return found


class Against(nn.Module):
    """The log-probability of each picture's own prompt among those with a word exchanged: 0 is the highest, and what a
    prompt has in which nothing can be exchanged. The judge's scores over `temperature` are the logits.
    """

    def __init__(self, judge: Any, groups: Words, temperature: float):
        super().__init__()
        self.judge, self.groups, self.temperature = judge, groups, temperature

    def forward(self, images: Float[Tensor, "b 3 h w"], prompts: Sequence[str]) -> Float[Tensor, " b"]:
        rows = [[prompt, *exchanged(prompt, self.groups)] for prompt in prompts]
        lengths = [len(row) for row in rows]
        times = torch.tensor(lengths, device=images.device)
        scores = self.scores(images, [prompt for row in rows for prompt in row], times)
        logits = pad_sequence(list((scores / self.temperature).split(lengths)), True, -torch.inf)
        return logits.log_softmax(1)[:, 0]

    def scores(
        self, images: Float[Tensor, "b 3 h w"], prompts: Sequence[str], times: Int[Tensor, " b"]
    ) -> Float[Tensor, " n"]:
        """Of each picture with as many prompts. A picture is looked at once, where the judge is a cosine."""
        if isinstance(self.judge, Cosine):
            return self.judge.compare(self.judge.embed_images(images).repeat_interleave(times, 0), prompts)
        scores: Tensor = self.judge(images.repeat_interleave(times, 0), prompts)
        return scores
