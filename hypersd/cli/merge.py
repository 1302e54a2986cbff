"""hypersd merge: several LoRAs become one file."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hypersd.cli.options import check_out, decimals, find_lora

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from hypersd.lora.files import LoraFile

TIMESTEPS = 1000
"""Of every base that there is."""


def merge(
    loras: Annotated[list[str], typer.Argument(help=".safetensors files for one base, or bundled.")],
    out: Annotated[Path, typer.Option(help="A .safetensors file.")],
    strengths: Annotated[
        str | None, typer.Option(help="One number a LoRA, with commas between; 1 is as trained. (default: all 1)")
    ] = None,
    rank: Annotated[int | None, typer.Option(help="A lower rank, by SVD. (default: exact, of the ranks' sum)")] = None,
    dtype: Annotated[str | None, typer.Option(help="fp16 or fp32. (default: that of the files)")] = None,
    one_step: Annotated[
        int | None, typer.Option(help="The timestep that a single step begins at, such as 710. (default: as it was)")
    ] = None,
    hint: Annotated[str | None, typer.Option(help="How to use it, in words. (default: as it was)")] = None,
) -> None:
    """Merge LoRAs into one: their sum.

    Sampler settings are those of the first that has any, but for --one-step and --hint, with which one LoRA is enough.
    """
    check_out(out, ".safetensors")
    paths = [find_lora(name, "emoji") or Path(name) for name in loras]
    factors, said = _strengths(strengths, len(paths)), _said(one_step, hint)
    if len(loras) < 2 and not said:
        raise ValueError("there is nothing to merge: name two LoRAs or more, or say --one-step or --hint")
    if out.resolve() in [path.resolve() for path in paths]:
        raise ValueError(f"--out: {out} is one of the files to merge; give another name")

    from hypersd.lora import algebra, files

    read = [files.read(path) for path in paths]
    for (first, file), (second, other) in combinations(zip(paths, read, strict=True), 2):
        files.check_same_base(other, file, second.name, first.name)
    total = algebra.concatenate([file.weights for file in read], factors)
    kind = _dtype(dtype, read)
    _check_finite(total, kind)
    weights, kept = _truncated(total, rank)
    parts = [_part(*each) for each in zip(paths, read, factors, strict=True)]
    record = {"loras": parts, "rank": algebra.rank_of(weights), "kept": kept}
    _write(out, weights, read, said, kind, record)
    how = "exact" if weights is total else f"{100 * kept:.2f} % of the norm kept"
    typer.echo(f"{out}  rank {record['rank']}, {how}")


def _strengths(text: str | None, count: int) -> list[float]:
    """One for each LoRA."""
    found = [1.0] * count if text is None else decimals(text, "--strengths")
    if len(found) != count:
        raise ValueError(f"--strengths wants a number for each of the {count} LoRAs, in their order; not {text!r}")
    return found


def _said(one_step: int | None, hint: str | None) -> dict[str, Any]:
    """Sampler settings that the result has of its own."""
    if one_step is not None and not 0 <= one_step < TIMESTEPS:
        raise ValueError(f"--one-step wants a timestep from 0 to {TIMESTEPS - 1}, not {one_step}")
    return {key: value for key, value in {"one_step": one_step, "hint": hint}.items() if value is not None}


def _dtype(asked: str | None, read: list[LoraFile]) -> torch.dtype:
    import torch

    from hypersd.lora import files

    kinds = {None: files.one_dtype(file.dtype for file in read), "fp16": torch.float16, "fp32": torch.float32}
    if asked not in kinds:
        raise ValueError(f"--dtype wants fp16 or fp32, not {asked!r}")
    return kinds[asked]


def _check_finite(weights: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    for name, tensor in weights.items():
        if not tensor.to(dtype).float().isfinite().all():
            raise ValueError(
                f"{name} is not finite as {dtype}: a LoRA is broken, or a strength too large (--dtype fp32 holds more)"
            )


def _truncated(total: dict[str, Tensor], rank: int | None) -> tuple[dict[str, Tensor], float]:
    """`total` itself where that is of no higher rank than asked."""
    from hypersd.lora import algebra

    most = algebra.rank_of(total)
    if rank is None or rank == most:
        return total, 1.0
    if rank > most:
        warnings.warn(f"rank {rank} is above {most}, that of the exact sum: there is nothing to truncate", stacklevel=2)
        return total, 1.0
    return algebra.truncate(total, rank)


def _part(path: Path, file: LoraFile, strength: float) -> dict[str, Any]:
    """What the result's header says of one LoRA, and of what that itself was merged from."""
    said = {"file": path.name, "strength": strength, "rank": file.rank}
    return {**said, "merged": file.merged} if file.merged else said


def _write(
    out: Path,
    weights: dict[str, Tensor],
    read: list[LoraFile],
    said: dict[str, Any],
    dtype: torch.dtype,
    record: dict[str, Any],
) -> None:
    """Of the base, the recipe and the sampler, what the first LoRA that knows it says, and what is `said` instead."""
    from hypersd.lora import files

    base = {key: value for file in reversed(read) for key, value in file.base.items()}
    usage = next((file for file in read if file.sampler and not file.on_top_of), read[0])
    if "one_step" in said and "hint" not in said and (hint := usage.sampler.get("hint")):
        warnings.warn(f"what other programs show is still {hint!r}: --hint changes it", stacklevel=3)
    shape = (record["rank"], record["rank"], tuple(sorted(files.layers(weights))))
    files.write(out, weights, shape, base, usage.recipe, {**usage.sampler, **said}, dtype, record)
