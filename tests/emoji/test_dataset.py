"""Pictures, sources and split, on a few pictures drawn here: no package is downloaded."""

from __future__ import annotations

import io
import itertools
import json
import tarfile

import numpy as np
import pytest
from PIL import Image, ImageDraw

from emoji import sheets
from emoji.dataset import check_split, draw_weights, is_blank, load_pictures, on_white, tone_words
from emoji.sources import STYLES, SvgSet, WebpSet, plain, slugify, unswap
from emoji.split import HALVES, TONE_CODES, code, composable, make_split, part_of, read_split, write_split

SVG = '<circle cx="8" cy="8" r="6" fill="#e02020"/>'


def disc(colour: tuple[int, ...], size: int = 256) -> Image.Image:
    picture = Image.new("RGBA", (size, size))
    ImageDraw.Draw(picture).ellipse((size // 8, size // 8, size - size // 8, size - size // 8), fill=colour)
    return picture


def tarball(path, files: dict[str, bytes]):
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def people(concepts: int = 12) -> list[dict]:
    combinations = itertools.product(range(concepts), ("man", "woman", "person"), TONE_CODES, ("3d", "flat", "noto"))
    keys = ("concept", "gender", "tone", "style")
    return [dict(zip(keys, (f"trade {c}", g, t, s), strict=True)) for c, g, t, s in combinations]


def test_the_swapped_tones_of_the_3d_set_are_put_right(tmp_path):
    """What the package calls medium-light is medium: thumbs-up, light to dark, must only darken."""
    shipped = {"1f3fb": 230, "1f3fc": 165, "1f3fd": 216, "1f3fe": 129, "1f3ff": 71}
    files = {}
    for tone, red in shipped.items():
        buffer = io.BytesIO()
        disc((red, red // 2, 40, 255)).save(buffer, "WEBP", lossless=True)
        files[f"assets/1f44d-{tone}.webp"] = buffer.getvalue()
    pictures = WebpSet(tarball(tmp_path / "3d.tgz", files))
    reds = [np.asarray(pictures.read(f"1F44D-{tone.upper()}", 64))[32, 32, 0] for tone in shipped]
    assert [int(red) for red in reds] == sorted(shipped.values(), reverse=True)
    assert unswap("1F469-1F3FF-200D-1F692") == "1F469-1F3FF-200D-1F692"


def test_slugs_and_aliases_find_an_svg(tmp_path):
    pytest.importorskip("resvg_py")
    icons = {"icons": {"red-apple": {"body": SVG}}, "aliases": {"apple": {"parent": "red-apple"}}}
    icons["aliases"]["turned"] = {"parent": "red-apple", "hFlip": True}
    data = json.dumps(icons | {"width": 16, "height": 16}).encode()
    pictures = SvgSet(tarball(tmp_path / "a.tgz", {"icons.json": data}), {"1F34E": ["apple"], "1F34F": ["turned"]})
    found = np.asarray(pictures.read("1F34E", 32))
    assert found[16, 16].tolist() == [224, 32, 32, 255]
    assert found[0, 0, 3] == 0
    assert pictures.read("1F34F", 32) is None
    assert pictures.read("1F350", 32) is None


def test_names_are_told_apart_from_presentation():
    assert plain("1F469-200D-2764-FE0F") == "1F469-200D-2764"
    assert slugify("woman’s hat: Côte d’Ivoire") == "womans-hat-cote-divoire"
    assert [tone_words(tone) for tone in (0, 5, [1, 5])] == ["yellow", "dark", "light and dark"]


def packed(folder, *colours: tuple[int, ...], size: int = 64) -> list[dict]:
    """Records of discs in the shard of style "flat"."""
    shard, places = sheets.pack([disc(colour, size) for colour in colours])
    (folder / "flat.shard").write_bytes(shard)
    return [{"style": "flat", **place} for place in places]


def test_the_same_pictures_give_the_same_bytes():
    pictures = [disc((20, 120, 220, 255), 64), disc((200, 20, 20, 255), 64)]
    assert sheets.pack(pictures) == sheets.pack(list(pictures))


def test_a_picture_that_failed_to_render_is_told():
    assert is_blank(Image.new("RGBA", (64, 64)))
    assert not is_blank(disc((20, 120, 220, 255), 64))


def test_shrinking_makes_no_dark_fringe(tmp_path):
    """Transparent pixels are black underneath; they must not leak into the edge."""
    shrunk = on_white(load_pictures(tmp_path, packed(tmp_path, (255, 255, 0, 255), size=128), 32))
    assert shrunk[..., :2].min() >= 245


def test_every_picture_is_found_on_its_sheet(tmp_path):
    """More than a sheet of them, asked for in another order."""
    colours = [(8 * (i % 32), 255 - 80 * (i // 32), 100, 255) for i in range(70)]
    records = packed(tmp_path, *colours, size=32)
    order = np.random.default_rng(0).permutation(len(records))
    found = load_pictures(tmp_path, [records[i] for i in order], 32)
    seen = found[:, 16, 16, :3].astype(int)
    assert np.abs(seen - [colours[i][:3] for i in order]).max() <= 12
    assert found[:, 0, 0, 3].max() <= 8  # the ground stays clear


def test_pictures_are_drawn_by_concept_not_by_file():
    records = [{"concept": "cook", "group": 1}] * 36 + [{"concept": "apple", "group": 4}, {"concept": "om", "group": 8}]
    chances = draw_weights(records, 0.5, {8: 0.25})
    assert chances.sum() == pytest.approx(1)
    assert chances[:36].sum() / chances[36] == pytest.approx(6)  # the root of 36
    assert chances[37] / chances[36] == pytest.approx(0.25)


def test_held_out_combinations_leave_every_part_to_train_on():
    records = people()
    split = make_split(records)
    parts = [part_of(record, split) for record in records]
    train = [record for record, part in zip(records, parts, strict=True) if part == "train"]
    assert 0.10 < 1 - len(train) / len(records) < 0.20
    assert set(parts) == {"train", *HALVES}
    for keys in itertools.combinations(("concept", "gender", "tone", "style"), 2):
        seen = {tuple(record[key] for key in keys) for record in train}
        assert seen == {tuple(record[key] for key in keys) for record in records}
    assert make_split(reversed(records)) == split  # order does not matter


def test_only_people_of_one_tone_are_held_out():
    couple = {"concept": "handshake", "gender": None, "tone": "light and dark", "style": "flat"}
    assert not composable(couple)
    assert part_of(couple, {half: {} for half in HALVES}) == "train"
    assert code({"style": "flat", "gender": "woman", "tone": "dark"}) == "flat:w5"


def test_the_tracked_split_is_disjoint_and_leaves_half():
    split = read_split()
    pairs = {half: {(c, k) for c, codes in split[half].items() for k in codes} for half in HALVES}
    assert not pairs["develop"] & pairs["report"]
    assert 0.8 < len(pairs["develop"]) / len(pairs["report"]) < 1.25
    counts: dict[tuple[str, str], int] = {}
    for concept, combination in pairs["develop"] | pairs["report"]:
        style = combination.split(":")[0]
        assert style in STYLES
        counts[concept, style] = counts.get((concept, style), 0) + 1
    assert max(counts.values()) <= 9  # of 18: three genders, six tones


def test_the_tracked_split_is_never_replaced_unasked(tmp_path):
    tracked, split = tmp_path / "split.json", make_split(people())
    write_split(split, tracked)
    check_split(make_split(people()), tracked)
    before = tracked.read_bytes()
    with pytest.raises(ValueError, match=r"another split than .*split\.json.*write_split"):
        check_split(make_split(people(11)), tracked)
    assert tracked.read_bytes() == before
