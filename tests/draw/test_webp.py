"""Sheets as WebP look the same and take less."""

from __future__ import annotations

import numpy as np
from PIL import Image

from hypersd.draw import png, webp


def test_a_sheet_looks_the_same_and_takes_less(tmp_path):
    ramp = np.linspace(0, 255, 128)
    noise = np.random.default_rng(0).uniform(0, 12, (128, 128))
    values = np.stack([np.tile(ramp, (128, 1)), np.tile(ramp, (128, 1)).T, noise], 2)
    picture = Image.fromarray(values.astype(np.uint8))
    png.write(tmp_path / "a.png", picture)
    webp.write(tmp_path / "a.webp", picture)
    assert (tmp_path / "a.webp").stat().st_size < 0.5 * (tmp_path / "a.png").stat().st_size
    apart = np.asarray(Image.open(tmp_path / "a.webp")).astype(float) - np.asarray(picture)
    assert np.abs(apart).mean() < 5
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.png", "a.webp"]
