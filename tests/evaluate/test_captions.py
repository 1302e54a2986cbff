import gzip
import json

import pytest
import torch

from hypersd.evaluate import captions, protocol
from hypersd.evaluate.captions import Caption


def test_half_of_the_candidates_are_one_attribute_away_and_none_comes_twice():
    near = tuple(f"near {i}" for i in range(80))
    found = captions.retrieval([Caption("own", near), *(Caption(f"other {i}") for i in range(120))])
    row = [found.texts[i] for i in found.candidates[0].tolist()]
    assert row[0] == "own"
    assert len(set(row)) == len(row) == 100
    assert sum(text in near for text in row) >= 50
    few = captions.retrieval([Caption("own", near[:3]), *(Caption(f"other {i}") for i in range(120))])
    assert {few.texts[i] for i in few.candidates[0].tolist()} >= set(near[:3])


def test_candidates_are_the_same_each_time():
    given = [Caption(f"{i}", (f"{i}a", f"{i}b")) for i in range(50)]
    assert torch.equal(captions.retrieval(given).candidates, captions.retrieval(given).candidates)


def test_both_halves_of_a_set_have_the_same_captions():
    own = captions.paired(7, 20)
    assert torch.equal(own[0::2], own[1::2])
    assert own.tolist()[:4] == [0, 0, 1, 1]
    assert own.max() == 6


@pytest.mark.parametrize("pictures", [0, 2, 7])
def test_too_few_or_an_odd_number_of_pictures_is_refused(pictures):
    with pytest.raises(ValueError, match="even number"):
        captions.paired(10, pictures)


def test_splits_are_apart_and_named(tmp_path):
    records = [{"half": "develop", "caption": 0}, {"half": "report", "caption": 1, "near": [0], "far": [2]}]
    packed = gzip.compress(json.dumps({"texts": ["one", "two", "three"], "records": records}).encode())
    (tmp_path / captions.FILE).write_bytes(packed)
    assert captions.load("report", tmp_path) == [Caption("two", ("one",), ("three",))]
    with pytest.raises(ValueError, match="develop, report"):
        captions.load("test", tmp_path)


def test_no_two_sets_share_a_seed():
    drawn = [protocol.seeds(split, number, 2000) for split in ("develop", "report") for number in (0, 1, 2, 3, 90)]
    flat = [seed for seeds in drawn for seed in seeds]
    assert len(set(flat)) == len(flat)
