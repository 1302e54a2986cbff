"""Published weights: read from safetensors or a pickle of tensors, put into a network of transformers."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hypersd import tensors

NOT_READ = "only tensors are read from a pickle, weights_only=True, and it holds something else or is cut short"


def read(path: Path, remedy: str) -> dict[str, Tensor]:
    """By the file's ending. Raises FileNotFoundError or OSError, with the remedy."""
    return tensors.read(path, remedy)[1] if path.suffix == ".safetensors" else pickled(path, remedy)


def pickled(path: Path, remedy: str) -> dict[str, Tensor]:
    """The tensors of a pickle, or of the `state_dict` in it: whatever else is there is never built."""
    with tensors.readable(path, remedy):
        try:
            found = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
            raise ValueError(NOT_READ) from error
        found = found.get("state_dict", found) if isinstance(found, dict) else found
        if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
            raise ValueError("no table of tensors in it")
        return dict(found)


def config(kind: Any, path: Path, remedy: str) -> Any:
    """transformers' config `kind` of a JSON file. Raises FileNotFoundError or OSError, with the remedy."""
    from huggingface_hub import errors

    refused = getattr(errors, "StrictDataclassError", ValueError)  # which older versions do not have
    facts = tensors.facts(path, remedy)
    with tensors.readable(path, remedy):
        try:
            return kind.from_dict(facts)
        except refused as error:
            raise ValueError(str(error)) from error


def fill(kind: Any, config: Any, weights: Mapping[str, Tensor], unused: str = "\n") -> Any:
    """transformers' network `kind` with these weights, in fp32.

    Raises KeyError for what is missing from them, unless `unused` is part of its name, and ValueError for what has
    another shape. transformers itself would leave both random, with no more than a report.
    """
    with quiet():
        net, found = kind.from_pretrained(
            None,
            config=config,
            state_dict=dict(weights),
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            torch_dtype=torch.float32,
        )
    if missing := sorted(key for key in found["missing_keys"] if unused not in key):
        raise KeyError(missing[0])
    if found["mismatched_keys"]:
        key, given, wanted = sorted(found["mismatched_keys"])[0]
        raise ValueError(f"{key} is {tuple(given)}, not {tuple(wanted)}")
    return net


@contextmanager
def quiet() -> Iterator[None]:
    """No bars and no reports: what they would say is raised."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
