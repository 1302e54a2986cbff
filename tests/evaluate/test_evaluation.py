"""A whole evaluation of a random tiny base, and what must be exact in it."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from hypersd.draw.pipeline import Drawer
from hypersd.evaluate import protocol, report
from hypersd.evaluate.evaluation import run
from hypersd.evaluate.eyes import Eyes
from hypersd.evaluate.sets import Studio, draw
from hypersd.lora import files
from hypersd.lora.roles import Roles

TARGETS = ("to_q", "to_v", "conv1")
PROMPTS = [f"a red {thing}" for thing in ("cat", "dog", "hat", "car")]


def project(width: int, seed: int) -> torch.Tensor:
    return torch.randn(3 * 64, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def watchers():
    """Pooled pixels in random directions, and a text's embedding out of its letters."""

    def see(images):
        pixels = F.adaptive_avg_pool2d(images, 8).flatten(1)
        judged = F.normalize(pixels @ project(16, 1), dim=1)
        return {"features": pixels @ project(32, 0), "judged": judged, "quality": pixels.mean(1)}

    def texts(prompts):
        rows = [torch.bincount(torch.tensor(list(text.encode())), minlength=128).float() for text in prompts]
        return F.normalize(torch.stack(rows)[:, :16] + 0.1, dim=1)

    return Eyes(
        name="test",
        see=see,
        embed_texts=texts,
        apart=lambda a, b: (a - b).abs().mean((1, 2, 3)),
    )


@pytest.fixture
def lora(tiny_base, tmp_path):
    """A LoRA that changes the base's pictures a lot."""
    roles = Roles(tiny_base.unet)
    roles.add("made", 2, TARGETS)
    state = {
        name: torch.randn(t.shape, generator=torch.Generator().manual_seed(i))
        for i, (name, t) in enumerate(roles.state("made").items())
    }
    path = tmp_path / "lora.safetensors"
    files.write(path, state, roles.shape("made"), files.fingerprint(tiny_base.unet), {}, {})
    return path


@pytest.fixture
def folder(tmp_path):
    records = [{"half": "develop", "caption": i} for i in range(4)]
    (tmp_path / "captions.json").write_text(json.dumps({"texts": PROMPTS, "records": records}))
    coordinates = torch.randn(40, 8, generator=torch.Generator().manual_seed(5))
    basis = torch.linalg.qr(torch.randn(32, 8, generator=torch.Generator().manual_seed(6)))[0].T.contiguous()
    tensors = {"mean": torch.zeros(32), "basis": basis, "coordinates": coordinates}
    caption, half = torch.full((40,), -1), torch.arange(40) % 3
    caption[:4] = torch.arange(4)
    judged = F.normalize(torch.randn(40, 16, generator=torch.Generator().manual_seed(7)), dim=1)
    tensors |= {"caption": caption, "half": half, "judge_b": judged}
    save_file(tensors, tmp_path / "real.safetensors")
    return tmp_path


def fresh(tiny_folder):
    from hypersd import bases

    return bases.load(tiny_folder, device="cpu")


def studio(base, lora, scale, watchers, cache):
    return Studio(Drawer(base), Drawer(base, lora, scale), watchers, cache, {"base": "b", "lora": f"l {scale}"})


def test_a_lora_of_scale_0_gives_the_bases_row_exactly(tiny_base, lora, watchers, tmp_path):
    """And one of scale 1 does not, so that the comparison could fail."""
    seeds = protocol.seeds("develop", 1, 4)
    plain, tuned = protocol.plan(2, "ddim"), protocol.plan(2, "ddim", lora=True)
    off = studio(tiny_base, lora, 0.0, watchers, tmp_path)
    base, nothing = (off.measure(plan, PROMPTS, seeds) for plan in (plain, tuned))
    same = base.keys() - {"seconds"}
    assert same == {"features", "judged", "quality", "apart"}
    assert all(torch.equal(base[name], nothing[name]) for name in same)
    off.tuned.roles.scale("lora", 1.0)
    assert not torch.allclose(base["features"].float(), measure_anew(off, tuned, seeds), atol=1e-2)


def measure_anew(studio, plan, seeds):
    return studio.eyes.see(draw(studio.drawer(plan), PROMPTS, seeds, plan.settings))["features"]


def test_drawing_here_is_drawing_there(tiny_base):
    settings = protocol.plan(3, "tcd", guidance=2.0).settings
    assert torch.equal(
        draw(Drawer(tiny_base), PROMPTS, [1, 2, 3, 4], settings),
        Drawer(tiny_base).draw(PROMPTS, [1, 2, 3, 4], settings),
    )


def test_an_interrupted_set_goes_on_where_it_was(tiny_base, lora, watchers, tmp_path, monkeypatch):
    from hypersd.evaluate import sets

    monkeypatch.setattr(sets, "CHUNK", 2)
    monkeypatch.setattr(sets, "BATCH", 2)
    room, plan, seeds = (
        studio(tiny_base, lora, 1.0, watchers, tmp_path),
        protocol.plan(1, "ddim"),
        [1, 2, 3, 4],
    )
    whole = room.measure(plan, PROMPTS, seeds)
    drawn, original = [], sets.draw
    monkeypatch.setattr(sets, "draw", lambda *given: drawn.append(given[2]) or original(*given))
    (lost,) = tmp_path.glob("sets/*/000002.safetensors")
    lost.unlink()
    again = room.measure(plan, PROMPTS, seeds)
    assert drawn == [[3, 4]]
    assert torch.equal(whole["features"], again["features"])
    room.measure(protocol.plan(2, "ddim"), PROMPTS, seeds)
    assert len(drawn) == 3  # other settings are another set


def test_a_set_of_the_base_is_drawn_once_for_all_loras_and_never_for_another_precision(
    tiny_base, lora, watchers, tmp_path
):
    about = {"base": "b", "precision": "bf16", "lora": "l"}

    def key(lora_draws, **changed):
        room = Studio(Drawer(tiny_base), None, watchers, tmp_path, {**about, **changed})
        return room.key(protocol.plan(1, "ddim", lora=lora_draws), PROMPTS, [1, 2, 3, 4], False)

    assert key(False) == key(False, lora="other")
    assert key(True) != key(True, lora="other")
    assert key(False) != key(False, precision="fp32")


def test_a_whole_evaluation(tiny_folder, lora, watchers, folder, tmp_path, monkeypatch):
    from hypersd.evaluate import paths

    monkeypatch.setattr(protocol, "TEACHER_STEPS", 3)
    monkeypatch.setattr(paths, "SUBSTEPS", 8)
    monkeypatch.setattr(paths.fidelity, "SEGMENTS", (1, 8))
    shares, out = [], tmp_path / "found.json"
    given = {"base": str(tiny_folder), "lora": lora, "out": out, "pictures": 8, "seeds": 2, "steps": (2,)}
    given |= {"guidance": 3.0, "path_pictures": 2, "watchers": watchers, "folder": folder, "cache": tmp_path}
    found = run(**given, progress=lambda label, share: shares.append(share))
    assert report.read(out) == found
    assert found.quick
    assert shares == sorted(shares)
    roles = [(row.role, row.steps, row.sampler) for row in found.rows]
    assert roles[0] == ("teacher", 3, "ddim")
    assert [role for role in roles if role[0] == "distilled"] == [
        ("distilled", n, sampler) for n in (2,) for sampler in ("ddim", "tcd")
    ]
    assert set(found.selection) == {"2 steps", "2 evaluations"}
    assert len(found.selection["2 steps"]) == 9
    assert len(found.selection["2 evaluations"]) == 3 + 6
    assert all(len(row.values["fd_teacher"].values) == 2 for row in found.rows)
    assert set(found.paths) == {"base, guidance 3", "base, guidance 1", "LoRA"}
    assert len(found.paths["LoRA"]) == 2 + 9
    assert 0 <= found.reference["R@1 of real pictures"] <= 1
    assert found.about["sha256"].keys() == {"base", "lora"}
    again = run(**given)
    assert [row.values["fd_teacher"] for row in again.rows] == [row.values["fd_teacher"] for row in found.rows]
    assert again.about["wall_seconds"] < found.about["wall_seconds"]
