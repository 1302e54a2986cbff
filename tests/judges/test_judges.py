"""Finding judges by name, and one clear line for every file that is missing, damaged or not what it should be."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from hypersd import judges
from hypersd.judges import emoji
from hypersd.judges.networks import open_clip
from tests.conftest import save_tokenizer
from tests.judges import originals

DOCUMENT = (Path(__file__).parents[2] / "docs" / "judges.md").read_text()
PUBLISHED = ["aesthetic", "clip", "hpsv2", "hpsv21", "imagereward", "pickscore"]
PICKLES = {
    "aesthetic": "sac+logos+ava1-l14-linearMSE.pth",
    "clip": "pytorch_model.bin",
    "imagereward": "ImageReward.pt",
}
PICKLES |= {"hpsv2": "HPS_v2_compressed.pt"}


class Trojan:
    """Unpickled, it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def folder(tmp_path):
    """What every judge has beside its weights, and empty weights."""
    folder = tmp_path / "judges"
    words = save_tokenizer(folder)
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\na")
    config = open_clip.config(originals.seeded(originals.OpenClip, words).state_dict())
    (folder / "config.json").write_text(config.to_json_string())
    save_file({"a": torch.zeros(1)}, folder / "model.safetensors")
    for file in PICKLES.values():
        torch.save({"a": torch.zeros(1)}, folder / file)
    return folder


def line(error, file):
    """The message, which must be one line that names the file and where to get it."""
    text = str(error.value)
    assert "\n" not in text
    assert file in text
    assert "https://huggingface.co/" in text
    return text


def test_the_names():
    assert judges.names() == sorted([*PUBLISHED, "emoji-a", "emoji-a-quality", "emoji-b", "emoji-b-quality"])
    assert judges.names(judges.PERCEPTUALS) == ["emoji-mask", "lpips", "mask2former"]
    with pytest.raises(ValueError, match="no judge 'taste'; there are aesthetic, clip, "):
        judges.load("taste")
    with pytest.raises(ValueError, match="no judge 'clip'; there are emoji-mask, lpips, mask2former"):
        judges.load_perceptual("clip")


def test_the_papers_rewards_may_reward_and_the_others_judge():
    rewards = {name for name in judges.names() if judges.about(name).may_reward}
    assert rewards == {"aesthetic", "emoji-a", "emoji-a-quality", "imagereward"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_is_published_says_where_it_lies(name):
    about = judges.about(name)
    assert about.trained_on
    assert about.licence
    for file in about.files:
        assert file.sha256 is None or (len(file.sha256) == 64 and set(file.sha256) <= set("0123456789abcdef"))
        assert file.url.startswith(f"https://huggingface.co/{file.repository}/resolve/main/")
    assert about.files[0].bytes


def test_the_document_has_a_line_for_each_judge():
    for kind in (judges.JUDGES, judges.PERCEPTUALS):
        for name in judges.names(kind):
            (row,) = [row for row in DOCUMENT.splitlines() if row.startswith(f"| `{name}` |")]
            about = judges.about(name, kind)
            assert f"| {'yes' if about.may_reward else 'no'} |" in row
            assert all(file.name in row for file in about.files[:1])


def test_the_document_has_every_file_with_its_bytes_and_hash():
    found = re.findall(
        r"^\| `(.+)` \| (.+) \| (.+) \| ([\d,]+|not known here) \| `?(\w+|not known here)`? \|$", DOCUMENT, re.M
    )
    told = {(name, source): (of, size, sha256) for name, source, of, size, sha256 in found}
    for kind in (judges.JUDGES, judges.PERCEPTUALS):
        for judge in judges.names(kind):
            for file in judges.about(judge, kind).files:
                of, size, sha256 = told[file.name, f"`{file.repository}`"]
                assert f"`{judge}`" in of
                assert size == (f"{file.bytes:,}" if file.bytes else "not known here")
                assert sha256 == (file.sha256 or "not known here")
    own = [emoji.FOLDER / "a.safetensors", emoji.FOLDER / "b.safetensors"]
    for path in (*own, emoji.WORDS / "vocab.json", emoji.WORDS / "merges.txt"):
        content = path.read_bytes()
        assert told[path.name, "in the package"][1:] == (f"{len(content):,}", hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize("name", ["a", "b"])
def test_the_miniatures_judges_are_found_under_their_names(name):
    judge, own = judges.load(f"emoji-{name}"), emoji.load_judge(name)
    images, prompts = originals.pictures(2, 64, 64), ["a cat", "a dog"]
    assert isinstance(judge, judges.Judge)
    assert judge.may_reward == judges.about(f"emoji-{name}").may_reward
    torch.testing.assert_close(judge(images, prompts), own(images, prompts))


def test_a_third_partys_judge_is_a_dotted_path(monkeypatch):
    """One that likes bright pictures."""
    about = judges.About(trained_on="nothing", licence="MIT", may_reward=True)

    def load(name, weights):
        judge = judges.Published(name, about)
        judge.forward = lambda images, prompts: images.mean((1, 2, 3))
        return judge

    monkeypatch.setitem(sys.modules, "taste", SimpleNamespace(JUDGES={"bright": about}, load=load))
    judge = judges.load("taste.bright")
    assert (judge.name, judge.trained_on) == ("bright", "nothing")
    torch.testing.assert_close(judge(torch.ones(2, 3, 4, 4), ["", ""]), torch.ones(2))
    with pytest.raises(ValueError, match="the module 'taste' has no 'dark' in JUDGES"):
        judges.load("taste.dark")
    with pytest.raises(ValueError, match=r"'no_such\.judge' is not to be found .*install it, or mend its name"):
        judges.load("no_such.judge")


@pytest.mark.parametrize("name", [*PUBLISHED, "mask2former"])
def test_missing_files(name, tmp_path):
    load = judges.load_perceptual if name == "mask2former" else judges.load
    about = judges.about(name, judges.PERCEPTUALS if name == "mask2former" else judges.JUDGES)
    with pytest.raises(FileNotFoundError) as error:
        load(name, tmp_path / "nowhere")
    text = line(error, about.files[0].name)
    assert all(file.url in text for file in about.files)


@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_that_is_cut_short(name, folder):
    path = folder / PICKLES[name]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(OSError, match="weights_only=True, and it holds something else or is cut short") as error:
        judges.load(name, folder)
    line(error, path.name)


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"version https://git-lfs"])
def test_a_pickle_that_is_none(content, folder):
    path = folder / PICKLES["hpsv2"]
    path.write_bytes(content)
    with pytest.raises(OSError, match="only tensors are read from a pickle, weights_only=True") as error:
        judges.load("hpsv2", folder)
    line(error, path.name)


@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_with_more_than_weights_is_not_run(name, folder):
    trap = folder / "trap"
    torch.save({"state_dict": {"a": torch.zeros(1)}, "other": Trojan(trap)}, folder / PICKLES[name])
    with pytest.raises(OSError, match="only tensors are read from a pickle, weights_only=True") as error:
        judges.load(name, folder)
    line(error, PICKLES[name])
    assert not trap.exists()


@pytest.mark.parametrize("what", [[torch.zeros(1)], {"a": 3}, {"state_dict": {"a": "b"}}, torch.zeros(2)])
def test_a_pickle_without_a_table_of_tensors(what, folder):
    torch.save(what, folder / PICKLES["hpsv2"])
    with pytest.raises(OSError, match="no table of tensors in it") as error:
        judges.load("hpsv2", folder)
    line(error, PICKLES["hpsv2"])


@pytest.mark.parametrize("name", ["aesthetic", "clip", "hpsv2", "imagereward", "pickscore"])
def test_weights_with_other_keys(name, folder, capfd):
    with pytest.raises(OSError, match=r"damaged \((no '.+' in it|'a' is no part of a ViT-H-14)\)") as error:
        judges.load(name, folder)
    line(error, judges.about(name).files[0].name)
    assert capfd.readouterr().err == ""  # transformers' own report of it is left out


def test_an_open_clip_of_another_kind_is_refused():
    found = originals.seeded(originals.OpenClip, 90).state_dict()
    with pytest.raises(ValueError, match=r"'visual\.transformer\.resblocks\.0\.ls_1\.weight' is no part"):
        open_clip.load(found | {"visual.transformer.resblocks.0.ls_1.weight": torch.ones(1)})
    del found["transformer.resblocks.1.attn.in_proj_bias"]
    with pytest.raises(KeyError, match=r"text_model\.encoder\.layers\.1\.self_attn\.k_proj\.bias"):
        open_clip.load(found)


@pytest.mark.parametrize("content", ["{", '{"text_config": 3}'])
@pytest.mark.parametrize("file", ["vocab.json", "merges.txt", "config.json", "model.safetensors"])
def test_other_files_that_are_damaged(file, content, folder):
    (folder / file).write_text(content)
    with pytest.raises(OSError, match="damaged") as error:
        judges.load("pickscore", folder)
    line(error, file)


def test_a_vocabulary_without_its_marks(folder):
    (folder / "vocab.json").write_text('{"r": 0, "e": 1, "re": 2, "e</w>": 3, "re</w>": 4}')
    with pytest.raises(OSError, match=r"no '<\|startoftext\|>' in it"):
        judges.load("pickscore", folder)


def test_without_a_folder_the_hub_is_asked(folder, monkeypatch):
    asked = []

    def download(repository, name):
        asked.append((repository, name))
        return str(folder / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    with pytest.raises(OSError, match="no part of a ViT-H-14"):
        judges.load("hpsv2")
    clip = "openai/clip-vit-base-patch32"
    assert asked == [("xswu/HPSv2", "HPS_v2_compressed.pt"), (clip, "vocab.json"), (clip, "merges.txt")]


def test_a_hub_out_of_reach_ends_as_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(OSError, match="name the folder that it lies in") as error:
        judges.load("hpsv2")
    text = line(error, "HPS_v2_compressed.pt")
    assert "https://huggingface.co/xswu/HPSv2/resolve/main/HPS_v2_compressed.pt" in text
