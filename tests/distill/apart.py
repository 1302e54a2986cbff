"""What needs processes of its own: being killed (`killer.py`), and sharing a batch as torchrun's processes do. All are
forks of one, so that what is slow to import is imported once.

    python -m tests.distill.apart OUT '[["iteration", 7], ...]' RECIPE '{"name": ["draw.end=start"], ...}'
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from hypersd import recipe
from hypersd.distill.train import train
from tests.distill.killer import train_and_kill

ROOT = Path(__file__).parents[2]
PROCESSES = 2
STANDALONE = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "run_id": "apart"}


Moments = Sequence[tuple[str, float]]
Runs = Mapping[str, Sequence[str]]
"""Changes to a recipe, by the name of the run's folder."""


def train_apart(out: Path, moments: Moments, file: Path, runs: Runs) -> None:
    asked = [str(out), json.dumps(moments), str(file), json.dumps(runs)]
    command = [sys.executable, "-m", "tests.distill.apart", *asked]
    settings = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=settings)
    assert done.returncode == 0, done.stderr


def share(out: Path, file: Path, changes: Sequence[str]) -> str:
    train(recipe.load(file, changes), out)
    return os.environ["WORLD_SIZE"]


def train_in_two(out: Path, file: Path, runs: Runs) -> None:
    """What `torchrun --standalone --nproc_per_node 2` does, but its processes are forks of this one."""
    config = LaunchConfig(min_nodes=1, max_nodes=1, nproc_per_node=PROCESSES, start_method="fork", **STANDALONE)
    for name, changes in runs.items():
        worlds = elastic_launch(config, share)(out / name, file, changes)
        assert worlds == dict.fromkeys(range(PROCESSES), str(PROCESSES))


if __name__ == "__main__":
    out, moments, file, runs = sys.argv[1:]
    train_and_kill(Path(out), [tuple(moment) for moment in json.loads(moments)])
    train_in_two(Path(out), Path(file), json.loads(runs))
