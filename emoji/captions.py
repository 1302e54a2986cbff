"""Words for a picture, at several levels of detail.

"a firefighter" < "a woman firefighter" < "a woman firefighter with dark skin, flat style": all are
true of one picture, and what a caption leaves out is left open.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

TONES = ("yellow", "light", "medium-light", "medium", "medium-dark", "dark")  # index = emojibase's tone; 0: none given
GENDERS = {"man": "man", "men": "man", "boy": "man", "woman": "woman", "women": "woman", "girl": "woman"}
NEUTRAL = {"man": "person", "woman": "person", "men": "people", "women": "people", "boy": "child", "girl": "child"}
GENDER_WORD = re.compile(r"\b(man|woman|men|women|boy|girl)\b(?!’)")
SPECIAL = {"old man": "older person", "old woman": "older person", "merman": "merperson", "mermaid": "merperson"}
HAIR = {"blond hair": "with blond hair", "red hair": "with red hair", "curly hair": "with curly hair"}
HAIR |= {"white hair": "with white hair", "bald": "with a bald head", "beard": "with a beard"}
PEOPLE, SYMBOLS, FLAGS = 1, 8, 9  # Unicode's groups
NO_ARTICLE = {"bread", "cooked rice", "honey", "sake", "salt", "butter", "spaghetti", "fire", "fog", "ice", "money"}
SHAPE = re.compile(
    r"(heart|circle|square|diamond|triangle|flag|mark|arrow|button|sign|symbol)\b"
)  # symbols with an article
PLURAL_EXCEPTIONS = ("ss", "us", "is")
# the lowest share first: how often a caption is short, full, or made of keywords
KEYWORDS_ONLY, WITH_KEYWORD = 0.04, 0.10


@dataclass(frozen=True)
class Subject:
    """What a picture shows, apart from tone and style."""

    concept: str  # "firefighter", "red apple", "flag: Czechia"
    gender: str | None  # man, woman, person (drawn as neither), or None where it does not apply
    name: str  # "woman firefighter"


def find_subjects(labels: Iterable[str]) -> dict[str, Subject]:
    """Splits gender from concept: "woman firefighter" is concept "firefighter" if others share it."""
    known = list(labels)
    concepts = {label: _concept(label, set(known)) for label in known}
    shared: dict[str, set[str]] = {}
    for label, concept in concepts.items():
        shared.setdefault(concept, set()).add(label)
    return {label: _subject(label, concepts[label], shared) for label in known}


def _concept(label: str, known: set[str]) -> str:
    words = GENDER_WORD.findall(label)
    if label in SPECIAL:
        return SPECIAL[label]
    if len(words) != 1 or label.startswith(("family", "kiss", "couple")):
        return label
    neutral = GENDER_WORD.sub(lambda match: NEUTRAL[match.group()], label)
    trade = re.sub(r"^(person|people) ", "", neutral)
    return trade if trade in known else neutral


def _subject(label: str, concept: str, shared: dict[str, set[str]]) -> Subject:
    if len(shared[concept]) == 1:  # nobody to tell it from
        return Subject(label, None, label)
    gender = GENDERS.get(next(iter(GENDER_WORD.findall(label)), ""), "person")
    gender = {"merman": "man", "mermaid": "woman"}.get(label, gender)
    return Subject(concept, gender, label)


def phrase(name: str, group: int) -> str:
    """A CLDR label as a noun phrase: "red apple" -> "a red apple", "flag: Czechia" -> "the flag of Czechia"."""
    head, _, rest = name.partition(": ")
    if head == "flag":
        return f"the flag of {rest}"
    if head == "keycap":
        return f"keycap {rest}"
    if head in ("family", "kiss", "couple with heart"):
        joined = " and ".join(filter(None, rest.rsplit(", ", 1)))
        return f"a {head} of {joined}" if head == "family" else f"a {head}, {joined}" if rest else f"a {head}"
    if rest:
        name = f"{head} {HAIR.get(rest, rest)}"
    return _article(name, group) + name


def _article(name: str, group: int) -> str:
    first_noun = re.split(r" (?:with|in|of|on|at|wearing|facing|and) ", name)[0]
    if name.startswith(("person ", "man ", "woman ")):
        first_noun = "person"
    plural = first_noun.endswith("s") and not first_noun.endswith(PLURAL_EXCEPTIONS)
    people = first_noun.split()[0] in ("people", "men", "women")
    if (group in (SYMBOLS, FLAGS) and not SHAPE.search(name)) or plural or people or name in NO_ARTICLE:
        return ""
    return "an " if name[0].lower() in "aeiou" and not name.startswith(("uni", "one", "eu")) else "a "


def skin(tone: str, phrase_so_far: str) -> str:
    """ " with dark skin", or ", dark skin" where the phrase has its "with" already."""
    return f", {tone} skin" if " with " in phrase_so_far else f" with {tone} skin"


def caption(record: dict[str, Any], *, gender: bool = True, tone: bool = True, style: bool = True) -> str:
    """The caption that states what the flags ask for, where the picture has it."""
    name = record["name"] if gender else record["concept"]
    text = phrase(name, record["group"])
    if tone and record["tone"]:
        text += skin(record["tone"], text)
    return f"{text}, {record['words']}" if style else text


def levels(record: dict[str, Any]) -> list[str]:
    """Every caption of a picture without keywords, the shortest first, no doubles."""
    flags = [(g, t, s) for s in (False, True) for t in (False, True) for g in (False, True)]
    return list(dict.fromkeys(caption(record, gender=g, tone=t, style=s) for g, t, s in flags))


def draw_caption(record: dict[str, Any], rng: random.Random) -> str:
    """A caption at a random level of detail; a few carry, or are, the keywords of CLDR."""
    text = caption(record, gender=rng.random() < 0.8, tone=rng.random() < 0.75, style=rng.random() < 0.7)
    tags = record["tags"]
    draw = rng.random()
    if len(tags) >= 2 and draw < KEYWORDS_ONLY:
        return ", ".join(rng.sample(tags, min(3, len(tags))))
    if tags and draw < KEYWORDS_ONLY + WITH_KEYWORD:
        return f"{text}, {rng.choice(tags)}"
    return text
