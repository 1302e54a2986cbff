"""From a drawn set to its numbers, given what it is measured against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hypersd.evaluate import alignment, diversity, frechet
from hypersd.evaluate.captions import Retrieval
from hypersd.evaluate.eyes import Eyes
from hypersd.evaluate.frechet import Basis
from hypersd.evaluate.real import Real
from hypersd.evaluate.sets import Set

SECOND_DIRECTIONS = 32  # the second opinion sees half as many pictures
TEXT_BATCH = 256


@dataclass(frozen=True)
class Ruler:
    """The reference set, the real pictures, and the captions among which each picture is retrieved."""

    reference: Set
    real: Real
    texts: Float[Tensor, "m d"]
    candidates: Int[Tensor, "c k"]
    own: Int[Tensor, " n"]
    """The caption of each picture of a set; captions come first among `texts`."""

    @cached_property
    def basis(self) -> Basis:
        return frechet.principal(self.real.features)

    @cached_property
    def second_basis(self) -> Basis:
        """Of the reference's pictures: the real ones are not at hand for this network."""
        return frechet.principal(self.reference["second"], SECOND_DIRECTIONS)

    @cached_property
    def of_teacher(self) -> Float[Tensor, "n k"]:
        return self.basis.project(self.reference["features"])

    @cached_property
    def of_real(self) -> Float[Tensor, "n k"]:
        return self.basis.project(self.real.held_out[: len(self.reference["features"])])

    @cached_property
    def scale(self) -> alignment.Scale:
        return alignment.scale(self.reference["judged"], self.texts[: len(self.candidates)], self.own)

    @cached_property
    def floors(self) -> dict[str, float]:
        """What two halves of one set are apart."""
        found = {"fd_teacher": frechet.floor(self.of_teacher), "fd_real": frechet.floor(self.of_real)}
        if "second" in self.reference:
            found["fd_second"] = frechet.floor(self.second_basis.project(self.reference["second"]))
        return found

    def measure(self, drawn: Set) -> dict[str, float]:
        """Every number of a row; distances are above the floor."""
        features = self.basis.project(drawn["features"])
        precision, recall = diversity.precision_recall(features, self.of_teacher)
        found = {
            "recall_at_1": self.recall_at_1(drawn["judged"], self.own),
            "quality": float(drawn["quality"].mean()),
            "fd_teacher": self.above("fd_teacher", features, self.of_teacher),
            "fd_real": self.above("fd_real", features[: len(self.of_real)], self.of_real),
            "kid": frechet.kernel_distance(drawn["features"], self.reference["features"]),
            "precision": precision,
            "recall": recall,
            "seconds": float(drawn["seconds"].median()),
        }
        if self.scale.meaningful:
            score = alignment.score(drawn["judged"], self.texts[self.own])
            found["alignment"] = self.scale.normalise(score)
            found["chance"] = self.scale.normalise(self.exchanged(drawn["judged"]))
        if "second" in drawn and "second" in self.reference:
            mine, theirs = (self.second_basis.project(s["second"]) for s in (drawn, self.reference))
            found["fd_second"] = self.above("fd_second", mine, theirs)
        if "chroma" in drawn and "chroma" in self.reference:  # sets of an older program are without it
            found["saturation"] = float(drawn["chroma"].mean() / self.reference["chroma"].mean())
        if "apart" in drawn:
            found["diversity"] = float(drawn["apart"].mean())
        return found

    def above(self, name: str, a: Float[Tensor, "n k"], b: Float[Tensor, "m k"]) -> float:
        return frechet.between_halves(a, b) - self.floors[name]

    def far(self, drawn: Set) -> float:
        """FD to the teacher of a set that may have the first captions only, above the floor of its size.

        Against the reference's pictures of the same captions: few captions against many are far apart whoever draws
        them, and the nearest is then who has the least of everything.
        """
        mine = self.basis.project(drawn["features"])
        theirs = self.of_teacher[: len(mine)]
        return frechet.between_halves(mine, theirs) - frechet.floor(theirs)

    def exchanged(self, judged: Float[Tensor, "n d"]) -> float:
        """What these very pictures score under captions that are not theirs."""
        return alignment.shuffled_score(judged, self.texts[: len(self.candidates)], self.own)

    def recall_at_1(self, judged: Float[Tensor, "n d"], own: Int[Tensor, " n"]) -> float:
        return alignment.recall_at_1(judged, self.texts, self.candidates[own])

    def ends(self) -> dict[str, float]:
        """Floors, the ends of the alignment scale, and what real pictures get."""
        found = {f"floor of {name}": value for name, value in self.floors.items()}
        found |= {
            "score of the teacher": self.scale.teacher,
            "score of exchanged": self.scale.shuffled,
        }
        if self.real.judged is not None and self.real.own is not None:
            found["R@1 of real pictures"] = self.recall_at_1(self.real.judged, self.real.own)
            if self.scale.meaningful:
                right = alignment.score(self.real.judged, self.texts[self.real.own])
                found["alignment of real pictures"] = self.scale.normalise(right)
        return found


@torch.no_grad()
def ruler(reference: Set, real: Real, sought: Retrieval, own: Int[Tensor, " n"], eyes: Eyes) -> Ruler:
    return Ruler(reference, real, embed(eyes, sought.texts), sought.candidates, own)


@torch.no_grad()
def embed(eyes: Eyes, texts: Sequence[str]) -> Float[Tensor, "m d"]:
    parts = [eyes.embed_texts(list(texts[i : i + TEXT_BATCH])) for i in range(0, len(texts), TEXT_BATCH)]
    return torch.cat(parts).float().cpu()
