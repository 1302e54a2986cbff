"""The arithmetic of the stages: latents, losses, averages, tokenizer, resuming."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from emoji import autoencoder, base, evaluation, judges, tokenizer
from emoji.config import Config, read_config
from emoji.training import Run, cosine
from hypersd.judges.emoji import Judge
from hypersd.judges.networks import imagenet


def test_components_are_scaled_and_invertible():
    torch.manual_seed(0)
    images = torch.nn.functional.interpolate(torch.randn(64, 3, 8, 8), 32, mode="bilinear")
    basis = autoencoder.fit_components(images, patch=8, count=16)
    latents = autoencoder.project(images, basis)
    assert latents.shape == (64, 16, 4, 4)
    assert latents.mean((0, 2, 3)).abs().max() < 1e-3
    assert latents.var((0, 2, 3)).mean() == pytest.approx(1, abs=0.02)
    patches = autoencoder.as_patches(images, 8)
    rows = basis["filters"].reshape(16, -1)
    again = torch.linalg.lstsq(rows @ rows.T, latents.permute(0, 2, 3, 1).reshape(-1, 16).T - basis["bias"][:, None])
    back = (rows.T @ again.solution).T
    explained = 1 - (back - patches).var() / patches.var()
    assert explained > 0.95


def test_the_schedule_and_min_snr():
    alpha_bars = base.alphas_cumprod()
    assert float(alpha_bars[0]) == pytest.approx(0.99915, abs=1e-5)
    assert float(alpha_bars[-1]) == pytest.approx(0.0047, abs=1e-4)  # Stable Diffusion's own end
    weights = base.min_snr_weight(alpha_bars, 5.0)
    assert float(weights[-1]) == 1.0
    assert float(weights[0]) == pytest.approx(5 / (0.99915 / 0.00085), rel=0.01)


def test_the_sizes_are_those_of_the_configuration():
    config = read_config(autoencoder.Path(base.__file__).with_name("cpu.yaml"))
    with torch.device("meta"):
        nets = base.new_unet(config), base.new_text_encoder(config), autoencoder.new_autoencoder(config)
    counts = [sum(p.numel() for p in net.parameters()) for net in nets]
    assert counts[0] <= 10_500_000
    assert counts[1] <= 1_600_000
    assert counts[2] <= 2_200_000
    assert nets[0].config.sample_size == 8


def test_an_unknown_setting_is_named(tmp_path):
    (tmp_path / "bad.yaml").write_text("base: {chanels: [1]}\n")
    with pytest.raises(ValueError, match="chanels"):
        read_config(tmp_path / "bad.yaml")


def test_the_average_starts_fast_and_settles():
    module = nn.Linear(1, 1, bias=False)
    average = base.Average(module, 0.9)
    module.weight.data.fill_(1.0)
    average.module.weight.data.fill_(0.0)
    average.update(0)
    assert float(average.module.weight) == pytest.approx(0.9)  # 1 - 1/10
    average.update(10**6)
    assert float(average.module.weight) == pytest.approx(0.91)


def test_the_rate_warms_up_and_falls():
    assert cosine(0.01) == pytest.approx(0.5)
    assert cosine(0.5) == pytest.approx(0.51)
    assert cosine(1.0) == pytest.approx(0.02)


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path):
    def weights(name: str, stops: tuple[int, ...]) -> torch.Tensor:
        for stop in stops:
            torch.manual_seed(0)
            net = nn.Linear(4, 4)
            run = Run({"net": net}, lr=0.1, steps=12, minutes=10, path=tmp_path / name)

            def loss(step: int, net: nn.Module = net, run: Run = run, stop: int = stop) -> dict[str, torch.Tensor]:
                if step == stop:
                    torch.save(run.state(), run.path)
                    raise KeyboardInterrupt
                draw = torch.Generator().manual_seed(step)
                return {"loss": (net(torch.randn(8, 4, generator=draw)) - 1).square().mean()}

            try:
                run.train(loss)
            except KeyboardInterrupt:
                continue
        return net.weight.detach()

    assert torch.equal(weights("whole", (-1,)), weights("cut", (5, 9, -1)))


def test_the_tokenizer_is_clips_but_small(tmp_path):
    transformers = pytest.importorskip("transformers")
    from hypersd.judges.emoji import tokenize

    texts = ["a woman firefighter with dark skin, flat style", "the flag of Côte d’Ivoire, 3D style"] * 20
    tokenizer.write_tokenizer(tmp_path, tokenizer.learn_merges(texts, 700), size=600, length=24)
    words = transformers.CLIPTokenizer.from_pretrained(tmp_path)
    assert words.model_max_length == 24
    assert words("").input_ids == [words.bos_token_id, words.eos_token_id]
    for text in (*texts[:2], "日本 pizza", "it's 42!"):
        ids = words(text, padding="max_length", truncation=True).input_ids
        assert ids[0] == words.bos_token_id
        assert words.eos_token_id in ids
        assert words.unk_token_id == words.eos_token_id == max(words.get_vocab().values())
        assert tokenize([text], tmp_path)[0].tolist() == ids  # the judges' reader agrees
    assert words.decode(words(texts[1]).input_ids, skip_special_tokens=True).startswith("the flag of côte")


def test_a_judge_is_trained_on_the_exported_bases_own_words_or_not_at_all(tmp_path):
    trained, exported = tmp_path / "trained", tmp_path / "exported"
    for folder in (trained, exported):
        tokenizer.write_tokenizer(folder, tokenizer.learn_merges(["a red cat", "a red fox"], 700), size=600, length=24)
    judges.check_words(trained, exported)
    (exported / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(ValueError, match="export the base first"):
        judges.check_words(trained, exported)
    (exported / "merges.txt").unlink()
    with pytest.raises(ValueError, match="export the base first"):
        judges.check_words(trained, exported)


def test_a_caption_is_true_of_what_it_does_not_contradict():
    keys = ("concept", "gender", "tone", "style")
    rows = [("cook", "man", "dark", "flat"), ("cook", "woman", "dark", "flat"), ("judge", "man", "dark", "flat")]
    records = [dict(zip(keys, row, strict=True)) for row in rows]
    said = [("cook", None, None, None), ("cook", "woman", "dark", None), ("judge", "man", "light", "flat")]
    assert judges.truths(said, records).int().tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]


def test_other_true_pairs_are_not_pushed_apart():
    vectors = torch.nn.functional.normalize(torch.randn(3, 8, generator=torch.Generator().manual_seed(1)), dim=-1)
    same = torch.cat([vectors, vectors[:1]])
    true = torch.eye(4, dtype=torch.bool)
    true[0, 3] = true[3, 0] = True
    scale = torch.tensor(4.0)
    assert float(judges.contrast(same, same, true, scale)) < 1e-3
    assert float(judges.contrast(same, same, torch.eye(4, dtype=torch.bool), scale)) > 0.3


@pytest.mark.parametrize("where", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_both_judges_learn_on_their_own_device_from_pictures_on_the_cpu(where):
    facts = {"concept": "cook", "gender": "man", "tone": "dark", "words": "flat style", "name": "man cook", "group": 1}
    records = [{**facts, "style": style} for style in ("3d", "flat", "noto", "high", "mono", "open", "blob", "twemoji")]
    rng = np.random.default_rng(0)
    rgba = rng.integers(0, 256, (8, 64, 64, 4), dtype=np.uint8)
    draws = judges.Draws(records, read_config(autoencoder.Path(base.__file__).with_name("cpu.yaml")))
    bank = {name: torch.randn(8, 3, imagenet.STAGE_WIDTH) for name in ("views", "spoilt")}
    a, b = (Judge(name, 1800).to(where) for name in ("a", "b"))
    for judge, loss in ((a, judges.loss_a(a, rgba, draws, 8)), (b, judges.loss_b(b, bank, draws, 8))):
        terms = loss(0)
        terms["loss"].backward()
        assert terms["quality"] > 0.5  # nothing is known yet: about 4 log 2 of softplus
        for weight in (
            judge.eyes.out.weight,
            judge.eyes.quality[0].weight if judge is a else judge.eyes.quality.weight,
        ):
            assert weight.grad.device.type == where
            assert weight.grad.abs().sum() > 0


def test_half_of_the_distractors_differ_in_one_attribute():
    keys = ("concept", "gender", "tone", "style")
    records = []
    for trade in (f"trade {i}" for i in range(60)):
        for gender in ("man", "woman"):
            for tone in ("light", "dark"):
                record = dict(zip(keys, (trade, gender, tone, "flat"), strict=True))
                extra = {"name": f"{gender} {trade}", "group": 1, "words": "flat style", "tags": [], "part": "train"}
                records.append(record | extra | dict.fromkeys(("codepoints", "package", "licence"), ""))
    records[0]["part"] = "develop"
    found = evaluation.caption_file(records)
    (row,) = found["records"]
    near = [found["texts"][i] for i in row["near"]]
    assert (len(near), len(row["far"])) == (49, 50)
    assert found["texts"][row["caption"]] == "a man trade 0 with light skin, flat style"
    assert "a woman trade 0 with light skin, flat style" in near
    assert "a man trade 0 with dark skin, flat style" in near
    assert "a woman trade 0 with dark skin, flat style" not in near  # two attributes away
    everyone = {row["caption"], *row["near"], *row["far"]}
    assert len(everyone) == 100


def test_the_default_configuration_is_complete():
    assert Config().styles
    assert evaluation.NEAR == 49
