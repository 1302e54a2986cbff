"""Words for a picture: gender told from concept, levels of detail, the odd cases of Unicode's names."""

from __future__ import annotations

import random

import pytest

from emoji.captions import draw_caption, find_subjects, levels, phrase

LABELS = [
    *("firefighter", "man firefighter", "woman firefighter"),
    *("person: red hair", "man: red hair", "woman: red hair"),
    *("people wrestling", "men wrestling", "women wrestling"),
    *("man dancing", "woman dancing", "boy", "girl", "child", "older person", "old man", "old woman"),
    *("woman with headscarf", "woman’s hat", "snowman", "family: man, woman, boy", "woman and man holding hands"),
]
SUBJECTS = find_subjects(LABELS)
RECORD = {"concept": "firefighter", "gender": "woman", "name": "woman firefighter", "group": 1}
RECORD |= {"tone": "dark", "words": "flat style", "tags": ["fire", "truck"]}


@pytest.mark.parametrize(
    ("label", "concept", "gender"),
    [
        ("woman firefighter", "firefighter", "woman"),
        ("firefighter", "firefighter", "person"),
        ("man: red hair", "person: red hair", "man"),
        ("women wrestling", "people wrestling", "woman"),
        ("man dancing", "person dancing", "man"),  # no label for a neutral dancer, but there are two of them
        ("girl", "child", "woman"),
        ("old man", "older person", "man"),
        ("woman with headscarf", "woman with headscarf", None),  # nobody to tell her from
        ("woman’s hat", "woman’s hat", None),
        ("snowman", "snowman", None),
        ("family: man, woman, boy", "family: man, woman, boy", None),
        ("woman and man holding hands", "woman and man holding hands", None),
    ],
)
def test_gender_is_told_from_concept(label, concept, gender):
    assert (SUBJECTS[label].concept, SUBJECTS[label].gender) == (concept, gender)


@pytest.mark.parametrize(
    ("name", "group", "words"),
    [
        ("red apple", 4, "a red apple"),
        ("owl", 3, "an owl"),
        ("unicorn", 3, "a unicorn"),
        ("grapes", 4, "grapes"),
        ("cactus", 3, "a cactus"),
        ("person lifting weights", 1, "a person lifting weights"),
        ("woman: curly hair", 1, "a woman with curly hair"),
        ("flag: Czechia", 9, "the flag of Czechia"),
        ("keycap: 3", 8, "keycap 3"),
        ("red heart", 0, "a red heart"),
        ("family: man, woman, boy", 1, "a family of man, woman and boy"),
    ],
)
def test_a_name_becomes_a_phrase(name, group, words):
    assert phrase(name, group) == words


def test_levels_go_from_open_to_full():
    found = levels(RECORD)
    assert found[0] == "a firefighter"
    assert found[1] == "a woman firefighter"
    assert found[-1] == "a woman firefighter with dark skin, flat style"
    assert len(found) == len(set(found)) == 8


def test_a_thing_has_two_levels():
    apple = {"concept": "red apple", "gender": None, "name": "red apple", "group": 4, "tone": None}
    assert levels(apple | {"words": "3D style"}) == ["a red apple", "a red apple, 3D style"]


def test_with_is_not_said_twice():
    cane = RECORD | {"concept": "person with white cane", "name": "man with white cane"}
    assert levels(cane)[-1] == "a man with white cane, dark skin, flat style"


def test_drawn_captions_are_true_and_of_every_level():
    rng = random.Random(0)
    drawn = [draw_caption(RECORD, rng) for _ in range(2000)]
    plain = [text for text in drawn if text in levels(RECORD)]
    assert set(plain) == set(levels(RECORD))
    assert 0.82 < len(plain) / len(drawn) < 0.90  # the rest carry keywords
    assert 0.35 < sum(text == levels(RECORD)[-1] for text in drawn) / len(drawn) < 0.45
    assert drawn[:50] == [draw_caption(RECORD, again) for again in [random.Random(0)] for _ in range(50)]
