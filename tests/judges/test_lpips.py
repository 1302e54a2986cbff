"""LPIPS as a perceptual loss; what VGG16 makes of pictures is in tests/evaluate/test_networks.py."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from hypersd import judges
from hypersd.judges import lpips
from hypersd.judges.networks import vgg
from tests.shapes import unchecked


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Random weights in the file's names."""
    folder, generator = tmp_path_factory.mktemp("lpips"), torch.Generator().manual_seed(0)
    net = vgg.Lpips()
    for head in net.heads:
        head.data.uniform_(generator=generator)
    save_file(net.state_dict(), folder / vgg.FILE)
    return folder


def pictures(*size):
    return torch.rand(2, 2, 3, *size, generator=torch.Generator().manual_seed(1))


def test_it_is_the_mean_of_its_networks_distances(folder):
    (a, b), net = pictures(32, 32), vgg.load(folder)
    loss = judges.load_perceptual("lpips", folder)
    torch.testing.assert_close(loss(a, b), net(a, b).mean())
    assert loss(a, a) == 0 < loss(a, b)
    assert not any(parameter.requires_grad for parameter in loss.parameters())
    a.requires_grad_()
    loss(a, b).backward()
    assert a.grad.abs().max() > 0


def test_larger_pictures_are_scaled_down_as_they_are(folder, monkeypatch):
    assert lpips.MOST == 256
    monkeypatch.setattr(lpips, "MOST", 32)
    a, b = pictures(40, 48)
    loss, net = judges.load_perceptual("lpips", folder), vgg.load(folder)
    small = (F.interpolate(x, (32, 38), mode="bilinear", antialias=True) for x in (a, b))
    with torch.no_grad():
        torch.testing.assert_close(loss(a, b), net(*small).mean())


def test_pictures_that_vgg_cannot_halve_four_times(folder):
    with pytest.raises(ValueError, match=r"LPIPS needs pictures of at least 16 pixels, not \(8, 32\)"):
        judges.load_perceptual("lpips", folder)(*pictures(8, 32))


def test_a_file_that_is_damaged(folder, tmp_path):
    (tmp_path / vgg.FILE).write_bytes((folder / vgg.FILE).read_bytes()[:1000])
    with pytest.raises(OSError, match=f"delete it, and python -m .* --cache {tmp_path} lpips makes it again"):
        judges.load_perceptual("lpips", tmp_path)


def test_each_picture_needs_one_of_its_own(folder):
    a, b = pictures(16, 16)
    with unchecked(), pytest.raises(ValueError, match="give each picture one of its size, not"):
        judges.load_perceptual("lpips", folder)(a, b[:1])


def test_a_folder_with_a_space_in_a_command(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"--cache '/.*/a b' lpips makes it"):
        judges.load_perceptual("lpips", tmp_path / "a b")


def test_what_the_hub_has_is_not_fetched_to_be_checked(monkeypatch):
    monkeypatch.setattr(judges.File, "fetch", lambda file: pytest.fail(f"fetched {file.name}"))
    judges.about("pickscore").check(None)


def test_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"; python -m .* --cache {tmp_path} lpips makes it"):
        judges.load_perceptual("lpips", tmp_path)
