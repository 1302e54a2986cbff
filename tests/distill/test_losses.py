"""What a loss needs of its batches is asked for before a run begins."""

from __future__ import annotations

import pytest

from hypersd import recipe
from hypersd.distill.train import train

GAUSSIAN, SOME = {"data": {"kind": "gaussian"}}, {"draw": {"visited_share": 0.9}}


@pytest.mark.parametrize(
    ("loss", "changed", "remedy"),
    [
        ("rollout", GAUSSIAN, r"set data=\{kind: paths\}"),
        ("regression", GAUSSIAN, r"set data=\{kind: paths\}"),
        ("rollout", SOME, r"set draw.visited_share=1"),
        ("score", SOME, r"set draw.visited_share=1"),
        ("adversarial", SOME, r"set draw.visited_share=1"),
    ],
)
def test_what_a_loss_lacks_is_said_before_anything_is_written(tmp_path, loss, changed, remedy):
    draw = {"points": 8, "end": "visited", "visited_share": 1.0, "steps": [2]}
    values = {"name": "lacking", "base": "toy", "losses": {loss: {}}, "data": {"kind": "paths"}, **changed}
    stages = [{"segments": 1, "iterations": 1}]
    made = recipe.parse({**values, "draw": draw | changed.get("draw", {}), "stages": stages})
    with pytest.raises(ValueError, match=f"the loss '{loss}' follows .*{remedy}"):
        train(made, tmp_path / "run")
    assert not (tmp_path / "run").exists()
