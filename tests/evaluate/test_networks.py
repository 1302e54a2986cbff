"""The two optional networks, as far as that can be checked without their weights."""

import pickle

import numpy as np
import pytest
import torch
from torch import nn
from transformers import ResNetConfig, ResNetModel
from transformers.models.resnet.modeling_resnet import ResNetConvLayer, ResNetShortCut

from hypersd.evaluate import eyes, fetch, resnet
from hypersd.judges import emoji
from hypersd.judges.networks import imagenet, vgg


def test_lpips_of_a_picture_to_itself_is_nothing_and_it_is_symmetric():
    net = vgg.Lpips()
    for head in net.heads:
        head.data.fill_(0.1)
    a, b = torch.rand(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert net(a, a).tolist() == [0, 0]
        assert torch.allclose(net(a, b), net(b, a))
        assert net(a, b).min() > 0


def test_lpips_is_what_its_paper_says_on_a_vgg16_built_apart():
    """Layers in torchvision's order, features after the last activation before each pooling and at the end."""
    torch.manual_seed(0)
    net, images = vgg.Lpips().eval(), torch.rand(2, 3, 32, 32)
    for head in net.heads:
        head.data.uniform_()
    plan = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512)
    given, layers = [conv for block in net.blocks for conv in block], []
    for width in plan:
        new = [nn.MaxPool2d(2, 2)] if width == "M" else [nn.Conv2d(given[0].in_channels, width, 3, 1, 1), nn.ReLU()]
        if width != "M":
            new[0].load_state_dict(given.pop(0).state_dict())
        layers += new
    shift, scale = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])
    x = torch.from_numpy(((images.numpy() * 2 - 1) - shift[:, None, None]) / scale[:, None, None]).float()
    total = torch.zeros(())
    with torch.no_grad():
        for index, layer in enumerate(layers):
            x = layer(x)
            if index in (3, 8, 15, 22, 29):
                a, b = (y / (y.square().sum(0, keepdim=True).sqrt() + 1e-10) for y in x)
                head = net.heads[(3, 8, 15, 22, 29).index(index)]
                total = total + torch.einsum("chw,c->hw", (a - b) ** 2, head).mean()
        torch.testing.assert_close(net(images[:1], images[1:]), total[None], rtol=1e-4, atol=1e-6)
    assert total > 0


def test_resnet_is_the_one_of_transformers():
    """With the stride in the first 1×1 convolution, as Keras has it; biases moved into the norms' means."""
    torch.manual_seed(0)
    net = resnet.ResNet50().eval()
    other = ResNetModel(ResNetConfig(downsample_in_bottleneck=True)).eval()
    units = [module for module in other.modules() if isinstance(module, ResNetConvLayer | ResNetShortCut)]
    mine = [net.stem]
    for block in net.blocks.values():  # transformers' order: the shortcut first
        first = [] if isinstance(block.branch1, nn.Identity) else [block.branch1]
        mine += [*first, block.branch2a, block.branch2b, block.branch2c]
    for theirs, (convolution, norm) in zip(units, mine, strict=True):
        norm.running_mean.normal_(std=0.1)
        norm.running_var.uniform_(0.5, 1.5)
        theirs.convolution.weight.data = convolution.weight.data
        theirs.normalization.load_state_dict(norm.state_dict())
        theirs.normalization.running_mean -= convolution.bias.data
        theirs.normalization.eps = 1e-3
    pictures = torch.rand(2, 3, resnet.SIZE, resnet.SIZE)
    mean = torch.tensor([103.939, 116.779, 123.68])
    blue_green_red = torch.stack([pictures[:, i] * 255 - m for i, m in zip((2, 1, 0), mean, strict=True)], 1)
    with torch.no_grad():
        expected = other(blue_green_red).pooler_output.flatten(1)
        found = net(pictures)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert expected.std() > 0


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
