"""The two optional networks, as far as that can be checked without their weights."""

import pickle

import numpy as np
import pytest
import torch

from hypersd.evaluate import eyes, fetch, resnet, vgg
from hypersd.judges import emoji
from hypersd.judges.networks import imagenet


def test_lpips_of_a_picture_to_itself_is_nothing_and_it_is_symmetric():
    net = vgg.Lpips()
    for head in net.heads:
        head.data.fill_(0.1)
    a, b = torch.rand(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert net(a, a).tolist() == [0, 0]
        assert torch.allclose(net(a, b), net(b, a))
        assert net(a, b).min() > 0


def test_every_name_of_keras_finds_its_place():
    names = set(resnet.ResNet50().state_dict())
    for layer, kind in [
        ("conv1", "kernel"),
        ("bn_conv1", "gamma"),
        ("res2a_branch1", "kernel"),
        ("bn5c_branch2c", "moving_variance"),
        ("res4f_branch2b", "bias"),
        ("fc1000", "kernel"),
    ]:
        assert fetch.keras_name(layer, kind) in names
    assert fetch.keras_name("bn2a_branch1", "moving_mean") == "blocks.2a.branch1.1.running_mean"


def test_resnet_has_2048_features():
    net = resnet.ResNet50().eval()
    with torch.no_grad():
        assert net(torch.rand(2, 3, 64, 64)).shape == (2, 2048)


class Harmful:
    def __reduce__(self):
        return print, ("this ran",)


def test_the_unpickler_reads_arrays_and_refuses_all_else(tmp_path, capsys):
    import io

    arrays = {"a": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}}
    read = fetch.NumpyUnpickler(io.BytesIO(pickle.dumps(arrays, protocol=3))).load()
    assert np.array_equal(read["a"]["kernel"], arrays["a"]["kernel"])
    with pytest.raises(pickle.UnpicklingError, match=r"refused builtins\.print"):
        fetch.NumpyUnpickler(io.BytesIO(pickle.dumps(Harmful()))).load()
    assert capsys.readouterr().out == ""


def test_the_unpickler_refuses_other_numpy_functions():
    import io

    with pytest.raises(pickle.UnpicklingError, match="refused"):
        fetch.NumpyUnpickler(io.BytesIO(b"cnumpy.lib.npyio\nload\n.")).load()


def test_networks_that_were_not_fetched_are_absent(tmp_path):
    assert vgg.load(tmp_path) is None
    assert resnet.load(tmp_path) is None


def test_one_pass_sees_what_the_judge_and_the_features_see_apart():
    judge, images = emoji.load_judge("b"), torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        seen = eyes.through(judge)(images)
        assert torch.equal(seen["features"], imagenet.features(images))
        assert torch.equal(seen["judged"], judge.embed_images(images))
        assert torch.equal(seen["quality"], judge.quality(images))
