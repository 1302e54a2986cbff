"""A whole evaluation of a random tiny base, and what must be exact in it."""

import gzip
import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from hypersd.draw.pipeline import Drawer, teacher_guidance
from hypersd.evaluate import captions, protocol, report
from hypersd.evaluate.evaluation import run
from hypersd.evaluate.eyes import Eyes
from hypersd.evaluate.sets import Studio, chroma, draw
from hypersd.lora import files
from hypersd.lora.roles import Roles
from tests.loras import write_lora

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
    packed = gzip.compress(json.dumps({"texts": PROMPTS, "records": records}).encode())
    (tmp_path / captions.FILE).write_bytes(packed)
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


def test_grey_has_no_chroma_and_red_all_of_it():
    red = torch.tensor([1.0, 0.0, 0.0])[:, None, None].expand(3, 2, 2)
    assert chroma(torch.stack([red, torch.full((3, 2, 2), 0.7), 0.5 * red])).tolist() == [1.0, 0.0, 0.5]


def test_a_lora_of_scale_0_gives_the_bases_row_exactly(tiny_base, lora, watchers, tmp_path):
    """And one of scale 1 does not, so that the comparison could fail."""
    seeds = protocol.seeds("develop", 1, 4)
    plain, tuned = protocol.plan(2, "ddim"), protocol.plan(2, "ddim", lora=True)
    off = studio(tiny_base, lora, 0.0, watchers, tmp_path)
    base, nothing = (off.measure(plan, PROMPTS, seeds) for plan in (plain, tuned))
    same = base.keys() - {"seconds"}
    assert same == {"features", "judged", "quality", "apart", "chroma"}
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


def test_two_processes_share_a_set(tiny_base, lora, watchers, tmp_path, monkeypatch):
    """What another one is drawing is left to it, and waited for at the end; a claim ends with its process."""
    from hypersd.evaluate import sets

    monkeypatch.setattr(sets, "CHUNK", 1)
    plan, seeds = protocol.plan(1, "ddim"), [1, 2, 3, 4]
    alone = studio(tiny_base, lora, 1.0, watchers, tmp_path / "alone").measure(plan, PROMPTS, seeds)
    shared = studio(tiny_base, lora, 1.0, watchers, tmp_path / "shared")
    order, original = [], sets.draw
    folder = tmp_path / "shared" / "sets" / next((tmp_path / "alone" / "sets").iterdir()).name
    folder.mkdir(parents=True)
    claims = "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX)"
    asked = [sys.executable, "-c", f"{claims}; print(flush=True); time.sleep(99)", str(folder / "000001.lock")]
    with subprocess.Popen(asked, stdout=subprocess.PIPE) as other:
        other.stdout.readline()  # it has its claim

        def draw(*given):
            order.append(given[2])
            if len(order) == 3:
                other.kill()
            return original(*given)

        monkeypatch.setattr(sets, "draw", draw)
        try:
            together = shared.measure(plan, PROMPTS, seeds)
        finally:
            other.kill()
    assert order == [[1], [3], [4], [2]]
    assert torch.equal(alone["features"], together["features"])
    assert not list(folder.glob("*.lock"))


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
    assert sets.changed(plan.settings) == {"steps": 1}  # one that comes later, and is left alone, is none


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
    found.write(tmp_path / "again.json")
    assert out.read_bytes() == (tmp_path / "again.json").read_bytes()
    assert [row.values.keys() for row in report.read(out).rows] == [row.values.keys() for row in found.rows]
    assert found.quick
    assert shares == sorted(shares)
    roles = [(row.role, row.steps, row.sampler) for row in found.rows]
    assert roles[0] == ("teacher", 3, "ddim")
    assert [role for role in roles if role[0] == "distilled"] == [
        ("distilled", n, sampler) for n in (2,) for sampler in ("ddim", "tcd")
    ]
    assert set(found.selection) == {"2 steps", "2 evaluations"}
    assert len(found.selection["2 steps"]) == 9
    assert len(found.selection["2 evaluations"]) == 3 + 6 + 2
    assert all(len(row.values["fd_teacher"].values) == 2 for row in found.rows)
    assert set(found.paths) == {"base, guidance 3", "base, guidance 1", "LoRA"}
    assert len(found.paths["LoRA"]) == 2 + 9
    assert 0 <= found.reference["R@1 of real pictures"] <= 1
    assert found.about["sha256"].keys() == {"base", "lora"}
    again = run(**given)
    assert [row.values["fd_teacher"] for row in again.rows] == [row.values["fd_teacher"] for row in found.rows]
    assert again.about["wall_seconds"] < found.about["wall_seconds"]
    assert again.about["drawing_seconds"] == found.about["drawing_seconds"] > 0
    assert found.about["drawing_seconds"] <= found.about["wall_seconds"]
    measured = {"alignment", "chance"}
    assert all(measured & row.values.keys() in (set(), measured) for row in found.rows)


class SeenError(Exception):
    """Raised by a stand-in that has seen what it was asked for."""


def test_those_who_watch_are_on_the_bases_device(folder, tmp_path, monkeypatch):
    from hypersd.bases.toy import Toy
    from hypersd.evaluate import evaluation

    elsewhere, asked = Toy(), []
    elsewhere.device = torch.device("cuda:7")

    def look(cache, device="cpu", optional=True):
        asked.append((device, optional))
        raise SeenError

    monkeypatch.setattr(evaluation.bases, "load", lambda name: elsewhere)
    monkeypatch.setattr(evaluation.eyes, "load", look)
    with pytest.raises(SeenError):
        run(base="toy", pictures=8, folder=folder, cache=tmp_path, optional=False)
    assert asked == [(torch.device("cuda:7"), False)]


@pytest.mark.gpu
def test_an_evaluation_on_a_gpu(tiny_folder, lora, tmp_path, monkeypatch):
    """With the real judge, on whatever device the base takes; what is kept of a set lies on the CPU."""
    from hypersd.evaluate import paths

    monkeypatch.setattr(protocol, "TEACHER_STEPS", 3)
    monkeypatch.setattr(paths, "SUBSTEPS", 8)
    given = {"base": str(tiny_folder), "lora": lora, "pictures": 8, "seeds": 1, "steps": (2,), "cache": tmp_path}
    found = run(**given, path_pictures=2)
    assert found.about["machine"] == torch.cuda.get_device_name()
    assert all(torch.isfinite(torch.tensor(stat.values)).all() for row in found.rows for stat in row.values.values())
    again = run(**given, path_pictures=2)
    assert [row.values["fd_teacher"] for row in again.rows] == [row.values["fd_teacher"] for row in found.rows]


@pytest.mark.parametrize(("asked", "taken"), [(0.0, 1.0), (2.0, 2.0), (None, 5.0)])
@pytest.mark.filterwarnings("ignore:guidance_scale 0 means off")
def test_guidance_0_is_off_and_not_the_loras(asked, taken, watchers, folder, tmp_path, monkeypatch):
    from hypersd.evaluate import evaluation

    jobs = []

    def measure(job, real):
        jobs.append(job)
        raise SeenError

    monkeypatch.setattr(evaluation.rows, "measure", measure)
    with pytest.raises(SeenError):
        run(base="toy", guidance=asked, watchers=watchers, folder=folder, cache=tmp_path, pictures=8)
    assert jobs[0].guidance == taken


@pytest.mark.parametrize("guidance", [-1.0, float("nan"), float("inf")])
def test_a_guidance_that_is_none_is_refused(guidance, folder, tmp_path):
    with pytest.raises(ValueError, match="guidance_scale must be 0"):
        run(base="toy", guidance=guidance, folder=folder, cache=tmp_path, pictures=8)


def test_where_nothing_can_be_written_nothing_is_drawn(tmp_path):
    (tmp_path / "taken").write_text("x")
    with pytest.raises(ValueError, match=r"is a folder; name a \.json file"):
        run(base="toy", out=tmp_path)
    with pytest.raises(OSError, match=r"could not write .*found\.json: .*; nothing was drawn"):
        run(base="toy", out=tmp_path / "taken" / "found.json")


def test_a_student_draws_with_the_settings_of_its_header(tiny_base, tmp_path):
    header = {"name": "tcd", "eta": 0.2, "guidance_scale": 2.0}
    found = files.read(write_lora(tiny_base, tmp_path / "x.safetensors", sampler=header))
    by = {plan.settings.sampler: plan for plan in protocol.students([2], found)}
    assert by["tcd"].settings.sampler_settings == {"eta": 0.2}
    assert by["tcd"].label == "LoRA, 2 steps, tcd eta 0.2 w 2"
    assert by["ddim"].settings.sampler_settings == {}
    assert {plan.settings.guidance_scale for plan in by.values()} == {2.0}
    assert [plan.sampler for plan in protocol.students([1, 2])] == ["ddim", "ddim", "tcd", "ddim from 800"]
    assert [plan.lower for plan in protocol.students([1], found)] == [False, True]
    assert protocol.students([1], found)[1].settings.sampler_settings == {"eta": 0.2, "one_step": 800}
    assert protocol.students([2]) == [protocol.plan(2, sampler, lora=True) for sampler in ("ddim", "tcd")]


def test_a_lora_that_keeps_guidance_is_held_against_the_guided_base(tiny_base, tmp_path):
    """Its teacher's paths were not guided, its drawings are."""
    path = write_lora(tiny_base, tmp_path / "x.safetensors", sampler={"guidance_scale": 4.0})
    baked = files.read(path)
    assert teacher_guidance(baked) == 5.0  # the middle of [4, 6]
    assert teacher_guidance(replace(baked, recipe={"teacher": {"guidance": [1.0, 1.0]}})) == 4.0
    assert teacher_guidance(None) == 5.0


def test_the_students_of_an_evaluation_are_those_of_the_header(tiny_base, tmp_path, watchers, monkeypatch):
    from hypersd.evaluate import rows

    lora = write_lora(tiny_base, tmp_path / "x.safetensors", sampler={"name": "tcd", "eta": 0.2})
    drawn = []

    def row(job, ruler, role, plan):
        drawn.append((role, plan.settings.sampler, plan.settings.sampler_settings))
        return report.Row(
            role, plan.settings.steps, 1, plan.settings.sampler, 1.0, {"recall_at_1": report.Stat((1.0,))}
        )

    def seen(*given):
        raise SeenError

    monkeypatch.setattr(rows, "row", row)
    monkeypatch.setattr(rows, "undistilled", lambda job, ruler: ([], {}))
    monkeypatch.setattr(rows, "path_errors", seen)
    monkeypatch.setattr(protocol, "TEACHER_STEPS", 1)
    own = torch.tensor([0, 0, 1, 1])
    room, meter = studio(tiny_base, lora, 1.0, watchers, tmp_path), rows.Meter(lambda label, share: None, 1)
    job = rows.Job(room, "develop", [rows.Caption(text) for text in PROMPTS], own, 1, (2,), 1.0, 0, meter)
    with pytest.raises(SeenError):
        rows.measure(job, rows.Real(torch.zeros(4, 32), torch.zeros(4, 32)))
    assert drawn[1:] == [("distilled", "ddim", {}), ("distilled", "tcd", {"eta": 0.2})]
