"""Whether pictures show what their captions say, by a judge that never trains anything.

Normalised alignment: (s − s_shuffled) / (s_teacher − s_shuffled), with s the mean score of pictures under
their own captions. Captions exchanged at random give 0 and the many-step teacher gives 1, whatever the
judge's scale. That 0 is of the teacher's pictures; what another row's own pictures get under exchanged
captions is its *chance*. Retrieval: the share of pictures whose own caption scores highest among 100, half of the
others differing from it in a single attribute.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Scale:
    """Where 0 and 1 of the normalised alignment lie."""

    shuffled: float
    teacher: float

    @property
    def meaningful(self) -> bool:
        """Whether the judge sees what the teacher's captions say at all."""
        return self.teacher > self.shuffled

    def normalise(self, score: float) -> float:
        assert self.meaningful, "the teacher's pictures match their captions no better than exchanged ones"
        return (score - self.shuffled) / (self.teacher - self.shuffled)


def score(images: Float[Tensor, "n d"], texts: Float[Tensor, "n d"]) -> float:
    """The mean score of pictures under these captions, picture by picture."""
    return float((images.double() * texts.double()).sum(1).mean())


def shuffled_score(images: Float[Tensor, "n d"], texts: Float[Tensor, "c d"], own: Int[Tensor, " n"]) -> float:
    """The expected score of pictures under one of the *other* captions: all exchanges at once, no luck."""
    table = images.double() @ texts.double().T
    right = table.gather(1, own[:, None]).sum()
    return float((table.sum() - right) / (len(images) * (len(texts) - 1)))


def recall_at_1(images: Float[Tensor, "n d"], texts: Float[Tensor, "m d"], candidates: Int[Tensor, "n c"]) -> float:
    """The share of pictures whose caption, candidate 0 of each row, beats all of the others."""
    scores = (images.double() @ texts.double().T).gather(1, candidates)
    return float((scores[:, 0] > scores[:, 1:].max(1).values).double().mean())


def scale(images: Float[Tensor, "n d"], texts: Float[Tensor, "c d"], own: Int[Tensor, " n"]) -> Scale:
    """0 and 1, from the teacher's reference pictures."""
    return Scale(shuffled_score(images, texts, own), score(images, texts[own]))
