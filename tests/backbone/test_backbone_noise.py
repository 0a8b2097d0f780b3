"""Timesteps and noises of a backbone: compared with separate passes, and used in heads, files and frameworks."""

import json
import shutil

import pytest
import torch
from builders import build_backbone, build_unet, build_vae, images, latents, relative_error
from builders_families import build_family
from diffusers import DDIMScheduler, DDPMScheduler
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from tadp import TADPBackbone
from tadp.cli.info import model_tables
from tadp.diffusion.families import Family
from tadp.diffusion.noise import SCHEDULER, seeded_noise
from tadp.integrations import Pyramid
from tadp.tasks import TADPForSemanticSegmentation

SD = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")


def backbone_with(**options) -> TADPBackbone:
    return build_backbone(scheduler=SD, **options)


def same(features, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(features.maps, other.maps, strict=True))


def passes_by_hand(clean, text, *, timestep: int, noises: int, seed: int = 0, scheduler=SD):
    """Features of noisy latents, one per noise, each computed by a backbone without noise."""
    backbone = build_backbone(timestep=timestep)
    passes = []
    for number in range(noises):
        noise = seeded_noise(clean, seed=seed, number=number).expand_as(clean)
        noisy = scheduler.add_noise(clean, noise, torch.full((len(clean),), timestep))
        passes.append(backbone.extract(noisy, text))
    return passes


def assert_mean(features, passes):
    for level, level_map in enumerate(features.maps):
        torch.testing.assert_close(
            level_map, torch.stack([single.maps[level] for single in passes]).mean(dim=0), rtol=1e-4, atol=1e-5
        )
    for level in features.attention.levels:
        expected = torch.stack([single.attention.at(level) for single in passes]).mean(dim=0)
        torch.testing.assert_close(features.attention.at(level), expected, rtol=1e-4, atol=1e-6)


# One pass


@torch.no_grad()
@pytest.mark.parametrize("timestep", [0, 261])
def test_without_noise_a_feature_is_one_pass_bit_for_bit(timestep):
    backbone, clean = build_backbone(timestep=timestep, attach_attention=(), record_attention=(1,)), latents(2, 8, 8)
    text = backbone.encode_text(["a dog", "a cat"])
    maps, attention = backbone.family.run_once(
        backbone.unet, backbone.layout, clean, timestep=timestep, text=text, image_size=(64, 64), record_levels=(1,)
    )
    features = backbone.extract(clean, text)
    assert all(torch.equal(a, b) for a, b in zip(features.maps, maps, strict=True))
    assert torch.equal(features.attention.at(1), attention[1])


@torch.no_grad()
@pytest.mark.parametrize(("timestep", "noises"), [(0, 1), (261, 1), (261, 3), (999, 2)])
def test_an_ensemble_is_the_mean_of_passes_over_noisy_latents(timestep, noises):
    clean, text = latents(2, 8, 16), ["a dog", "a red cat"]
    features = backbone_with(timestep=timestep, noise_samples=noises, noise_seed=5).extract(clean, text)
    passes = passes_by_hand(clean, text, timestep=timestep, noises=noises, seed=5)
    assert_mean(features, passes)
    assert relative_error(features.maps[0], build_backbone(timestep=timestep).extract(clean, text).maps[0]) > 1e-3


@torch.no_grad()
def test_noise_at_timestep_0_is_small():
    clean = latents(1, 8, 8)
    error = [
        relative_error(
            backbone_with(timestep=time, noise_samples=1).extract(clean).maps[0],
            build_backbone(timestep=time).extract(clean).maps[0],
        )
        for time in (0, 261)
    ]
    assert 0 < error[0] < 0.2 * error[1]


@torch.no_grad()
def test_more_noises_bring_seeds_closer_together():
    clean = latents(1, 8, 8)

    def apart(noises: int) -> float:
        features, other_features = (
            backbone_with(timestep=261, noise_samples=noises, noise_seed=seed).extract(clean).maps[2] for seed in (0, 1)
        )
        return relative_error(features, other_features)

    # The mean of 16 independent errors is a quarter as large as each.
    assert 0.1 < apart(16) / apart(1) < 0.5


@torch.no_grad()
def test_an_image_has_one_feature_whatever_its_batch_and_whatever_was_drawn_before(one_thread):
    backbone = backbone_with(timestep=(50, 261), noise_samples=2)
    batch = images(3, 64, 96)
    whole = backbone(batch, "a dog")
    torch.manual_seed(11)
    for number in range(3):
        alone = backbone(batch[number : number + 1], "a dog")
        for level, level_map in enumerate(alone.maps):
            torch.testing.assert_close(level_map[0], whole.maps[level][number], rtol=1e-4, atol=1e-5)
    assert same(backbone(batch.flip(0), "a dog"), backbone(batch.flip(0), "a dog"))
    # Noise has the size of the padded image.
    latents_alone = backbone.encode_image(batch[:1])
    assert latents_alone.shape[2:] == (8, 16)
    assert same(backbone(batch[:1]), backbone.extract(latents_alone, "", image_size=(64, 96)))


@torch.no_grad()
def test_noise_has_the_unets_precision_at_the_end_alone():
    clean = latents(1, 8, 8)
    options = {"timestep": 261, "noise_samples": 2, "scheduler": SD}
    expected = build_backbone(**options).extract(clean)
    half = build_backbone(**options).to(torch.bfloat16).extract(clean.bfloat16())
    assert half.maps[0].dtype == half.attention.at(1).dtype == torch.bfloat16
    assert relative_error(half.maps[0], expected.maps[0]) < 0.03


# Several timesteps


@torch.no_grad()
def test_timesteps_are_averaged():
    clean, text = latents(2, 8, 8), ["a dog", "a cat"]
    features = backbone_with(timestep=(1, 100, 261), noise_samples=2).extract(clean, text)
    assert_mean(features, [m for t in (1, 100, 261) for m in passes_by_hand(clean, text, timestep=t, noises=2)])
    assert backbone_with(timestep=(1, 100, 261)).feature_info == build_backbone().feature_info


@torch.no_grad()
@pytest.mark.parametrize("pool", [(), ("dog", "cat")])
def test_timesteps_are_concatenated_in_their_order_and_attention_stays_one(pool):
    pixels, text, times = images(2, 64, 80), ["a dog", "a cat"], (261, 1, 50)
    backbone = build_backbone(timestep=times, combine_timesteps="concatenate", pool_attention=pool)
    features = backbone(pixels, text)
    each = [build_backbone(timestep=time, attach_attention=(), record_attention=(1, 2))(pixels, text) for time in times]
    width = len(pool) or 77
    assert backbone.feature_info.channels == (3 * 8, 3 * 16 + width, 3 * 16 + width, 3 * 16)
    assert tuple(level_map.shape[1] for level_map in features.maps) == backbone.feature_info.channels
    for level, level_map in enumerate(features.maps):
        expected = torch.cat([single.maps[level] for single in each], dim=1)
        assert torch.equal(level_map[:, : expected.shape[1]], expected)
    for level in (1, 2):
        expected = torch.stack([single.attention.at(level) for single in each]).mean(dim=0)
        torch.testing.assert_close(features.attention.at(level), expected)
        torch.testing.assert_close(expected.sum(dim=1), torch.ones_like(expected[:, 0]))  # still probabilities
        attached = features.attention.pool(pool, level).maps if pool else features.attention.at(level)
        assert torch.equal(features.maps[level][:, 48:], attached)


@torch.no_grad()
def test_one_timestep_in_a_list_is_that_timestep():
    listed = build_backbone(timestep=[7], combine_timesteps="concatenate")
    assert listed.timestep == 7
    assert listed.options.timestep == 7
    assert same(listed.extract(latents(1, 8, 8)), build_backbone(timestep=7).extract(latents(1, 8, 8)))


def test_one_pass_goes_at_a_time(monkeypatch):
    """Noises are not batched: without gradient, an ensemble needs the memory of one pass and the sums."""
    calls = []
    run_once = Family.run_once

    def spy(family, model, layout, noisy, **options):
        calls.append((len(noisy), options["timestep"]))
        return run_once(family, model, layout, noisy, **options)

    monkeypatch.setattr(Family, "run_once", spy)
    with torch.no_grad():
        backbone_with(timestep=(3, 261), noise_samples=2).extract(latents(2, 8, 8))
    assert calls == [(2, 3), (2, 3), (2, 261), (2, 261)]


def test_gradients_are_those_of_the_mean():
    clean = latents(1, 8, 8).requires_grad_()
    backbone = backbone_with(timestep=(50, 261), noise_samples=2, combine_timesteps="concatenate")
    sum(level_map.square().mean() for level_map in backbone.extract(clean, "a dog").maps).backward()
    gradient, weight = clean.grad.clone(), backbone.unet.conv_in.weight.grad
    clean.grad = None
    by_hand = build_backbone()
    each = []
    for time in (50, 261):
        by_hand = by_hand.with_options(timestep=time)
        noisy = [SD.add_noise(clean, seeded_noise(clean, seed=0, number=k), torch.tensor([time])) for k in range(2)]
        passes = [by_hand.extract(latent, "a dog") for latent in noisy]
        each.append([(a + b) / 2 for a, b in zip(passes[0].maps, passes[1].maps, strict=True)])
        attention = [{k: single.attention.at(k) for k in (1, 2)} for single in passes]
        each[-1].append({k: (attention[0][k] + attention[1][k]) / 2 for k in (1, 2)})
    loss = torch.zeros(())
    for level in range(4):
        parts = [maps[level][:, : (8, 16, 16, 16)[level]] for maps in each]
        if level in (1, 2):
            parts.append((each[0][4][level] + each[1][4][level]) / 2)
        loss = loss + torch.cat(parts, dim=1).square().mean()
    loss.backward()
    torch.testing.assert_close(gradient, clean.grad, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(weight, by_hand.unet.conv_in.weight.grad, rtol=1e-3, atol=1e-6)
    assert gradient.abs().max() > 0


# Families


@torch.no_grad()
@pytest.mark.parametrize("family", ["SD 2.x", "SDXL", "SD 3 without T5", "FLUX"])
def test_each_family_takes_noise_of_its_own_kind(tmp_path, family):
    folder = build_family(family, tmp_path / "model")
    noisy = TADPBackbone.from_pretrained(folder, timestep=600, noise_samples=1, noise_seed=3)
    clean = TADPBackbone.from_pretrained(folder, timestep=600)
    clean_latents = noisy.encode_image(images(1, 64, 64))
    noise = seeded_noise(clean_latents, seed=3, number=0)
    if family in ("SD 2.x", "SDXL"):  # the test pipelines of these families have DDIM's default betas
        mixed = DDPMScheduler().add_noise(clean_latents, noise, torch.tensor([600]))
    else:
        mixed = 0.4 * clean_latents + 0.6 * noise
    expected, features = clean.extract(mixed, "a dog"), noisy.extract(clean_latents, "a dog")
    for level_map, other_map in zip(features.maps, expected.maps, strict=True):
        assert relative_error(level_map, other_map) < 1e-5
    assert relative_error(features.maps[0], clean.extract(clean_latents, "a dog").maps[0]) > 1e-3


@torch.no_grad()
def test_flow_matching_has_no_noise_at_timestep_0(tmp_path, monkeypatch):
    folder = build_family("SD 3 without T5", tmp_path / "model")
    with pytest.raises(ValueError, match=r"no noise at timestep 0, so noise_samples=2 has no effect; pass a later"):
        TADPBackbone.from_pretrained(folder, noise_samples=2)
    timesteps = []
    run_once = Family.run_once
    monkeypatch.setattr(
        Family,
        "run_once",
        lambda *parts, **options: timesteps.append(options["timestep"]) or run_once(*parts, **options),
    )
    backbone = TADPBackbone.from_pretrained(folder, timestep=(0, 500), noise_samples=2)
    backbone(images(1, 64, 64))
    assert timesteps == [0, 500, 500]  # nothing to average at 0
    shutil.rmtree(folder / "scheduler")  # the family then decides how noise is added
    assert same(
        TADPBackbone.from_pretrained(folder, **backbone.options.to_dict())(images(1, 64, 64)),
        backbone(images(1, 64, 64)),
    )


# Several passes at once


def counted(monkeypatch):
    """The number of rows of each run of the denoiser from now on."""
    rows, run_once = [], Family.run_once
    monkeypatch.setattr(
        Family, "run_once", lambda *parts, **options: rows.append(len(parts[3])) or run_once(*parts, **options)
    )
    return rows


def assert_close(features, expected):
    for level_map, other in zip(features.maps, expected.maps, strict=True):
        torch.testing.assert_close(level_map, other, rtol=1e-5, atol=1e-5)
    for level in expected.attention.levels if expected.attention else ():
        torch.testing.assert_close(features.attention.at(level), expected.attention.at(level), rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("combine", ["mean", "concatenate"])
def test_passes_run_at_once_with_the_features_of_one_at_a_time(combine, monkeypatch):
    backbone = backbone_with(timestep=(0, 261, 7), noise_samples=3, combine_timesteps=combine)
    clean, text = latents(2, 8, 8), backbone.encode_text(["a dog", "a red cat"])
    rows = counted(monkeypatch)
    expected = backbone.extract(clean, text)
    assert rows == [2] * 9
    for batch_size in (1, 2, 4, 100):
        rows.clear()
        features = backbone.batch_passes(batch_size).extract(clean, text)
        assert len(rows) == -(-9 // batch_size)
        assert sum(rows) == 18
        assert max(rows) <= 2 * batch_size
        assert_close(features, expected)
        assert same(features, expected) or batch_size > 1
    rows.clear()
    assert_close(
        backbone.with_options(timestep=261)(images(1, 64, 64), "a"),
        backbone.with_options(timestep=261).batch_passes(1)(images(1, 64, 64), "a"),
    )
    assert rows == [3, 1, 1, 1]


@torch.no_grad()
@pytest.mark.parametrize("family", ["SDXL", "SD 3"])
def test_passes_of_other_families_run_at_once(family, tmp_path, monkeypatch):
    folder = build_family(family, tmp_path / "model")
    backbone = TADPBackbone.from_pretrained(folder, timestep=(100, 500), noise_samples=1)
    pixels = images(2, 64, 64)
    rows, expected = counted(monkeypatch), backbone(pixels, ["a dog", "a red cat"])
    assert_close(backbone.batch_passes(2)(pixels, ["a dog", "a red cat"]), expected)
    assert rows == [2, 2, 4]


def test_gradients_of_passes_at_once_are_those_of_one_at_a_time():
    backbone = backbone_with(timestep=(1, 261), attach_attention=())
    clean, text = latents(1, 8, 8), backbone.encode_text("a dog")
    gradients = []
    for batch_size in (1, 2):
        backbone.zero_grad()
        backbone.batch_passes(batch_size).extract(clean, text).maps[0].square().sum().backward()
        gradients.append(backbone.unet.conv_in.weight.grad.clone())
    assert relative_error(gradients[1], gradients[0]) < 1e-5


def test_a_number_of_passes_below_one_is_refused(no_type_checker):
    with pytest.raises(ValueError, match="batch_size must be 1 or more; got 0"):
        backbone_with().batch_passes(0)
    with pytest.raises(TypeError, match="batch_size must be a whole number; got '2'"):
        backbone_with().batch_passes("2")


# Files


@torch.no_grad()
def test_options_and_scheduler_are_saved_and_loaded(model, tmp_path):
    scheduler = DDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    scheduler.save_pretrained(model / "scheduler")
    options = {"timestep": [261, 10], "combine_timesteps": "concatenate", "noise_samples": 2, "noise_seed": 9}
    backbone = TADPBackbone.from_pretrained(model, **options)
    assert backbone.options.to_dict().items() >= options.items()
    backbone.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / SCHEDULER).read_text()) == json.loads((model / SCHEDULER).read_text())
    again = TADPBackbone.from_pretrained(tmp_path / "saved")
    assert again.options == backbone.options
    features = again(images(1, 64, 64), "a dog")
    assert same(features, backbone(images(1, 64, 64), "a dog"))
    clean_latents = backbone.encode_image(images(1, 64, 64))
    passes = passes_by_hand(clean_latents, "a dog", timestep=261, noises=2, seed=9, scheduler=scheduler)
    first = torch.stack([single.maps[0] for single in passes]).mean(dim=0)
    torch.testing.assert_close(features.maps[0][:, :8], first, rtol=1e-4, atol=1e-5)
    assert TADPBackbone.from_pretrained(tmp_path / "saved", noise_samples=0, timestep=0).options.noise_samples == 0


@torch.no_grad()
def test_folders_that_were_saved_before_still_load(model, tmp_path):
    backbone = TADPBackbone.from_pretrained(model, timestep=1)
    backbone.save_pretrained(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "tadp_config.json").read_text())
    for name in ("combine_timesteps", "noise_samples", "noise_seed"):
        del config["options"][name]
    (tmp_path / "saved" / "tadp_config.json").write_text(json.dumps(config))
    assert not (tmp_path / "saved" / "scheduler").exists()
    again = TADPBackbone.from_pretrained(tmp_path / "saved")
    assert again.options == backbone.options
    assert same(again(images(1, 64, 64)), backbone(images(1, 64, 64)))


@torch.no_grad()
def test_a_model_without_a_scheduler_is_assumed_to_be_stable_diffusion_and_says_so(model_source):
    with pytest.warns(UserWarning, match=r"came without scheduler/scheduler_config\.json; noise is added as in Stable"):
        assumed = TADPBackbone.from_pretrained(model_source, timestep=261, noise_samples=1)
    explicit = TADPBackbone.from_pretrained(model_source, timestep=261, noise_samples=1, scheduler=SD)
    for level_map, other_map in zip(assumed(images(1, 64, 64)).maps, explicit(images(1, 64, 64)).maps, strict=True):
        torch.testing.assert_close(level_map, other_map)


def test_a_task_model_keeps_timesteps_and_noise(model, tmp_path):
    SD.save_pretrained(model / "scheduler")
    backbone = TADPBackbone.from_pretrained(
        model, timestep=(1, 261), combine_timesteps="concatenate", noise_samples=2, noise_seed=4
    )
    task = TADPForSemanticSegmentation(backbone, class_names=["a", "b"], window_px=64, tune="nothing").eval()
    loss = task(images(2, 64, 64), ["a dog", "a cat"], torch.zeros(2, 64, 64, dtype=torch.long)).loss
    loss.backward()
    assert task.head.neck.lateral_convs[1].weight.shape[1] == 2 * 16 + 77
    for source in (backbone.source, None):  # with a named base model, and built from parts
        backbone._source = source
        task.save_pretrained(tmp_path / "task")
        again = TADPForSemanticSegmentation.from_pretrained(tmp_path / "task")
        assert again.backbone.options == backbone.options
        expected = task.predict(images(1, 64, 64), "a dog").scores
        assert torch.equal(torch.as_tensor(again.predict(images(1, 64, 64), "a dog").scores), torch.as_tensor(expected))
    assert (
        "| timestep | 1, 261, concatenated; mean over 2 noises of seed 4 |" in (tmp_path / "task/README.md").read_text()
    )


@torch.no_grad()
def test_frameworks_see_the_wider_levels():
    backbone = build_backbone(timestep=(1, 261), combine_timesteps="concatenate")
    pyramid = Pyramid(backbone, stride4="upsampled", stride4_channels=6, text="")
    assert pyramid.feature_info.channels == (6, 16, 109, 109, 32)
    assert tuple(level_map.shape[1] for level_map in pyramid(images(1, 64, 64))) == pyramid.feature_info.channels


@torch.no_grad()
def test_transformers_saves_timesteps_noise_and_scheduler(model, tmp_path):
    pytest.importorskip("transformers")
    from tadp.integrations.transformers import TADPConfig, TADPModel

    DDPMScheduler(beta_schedule="squaredcos_cap_v2").save_pretrained(model / "scheduler")
    options = {"timestep": [1, 261], "combine_timesteps": "concatenate", "noise_samples": 1}
    model_with_noise = TADPModel(TADPConfig(base_model=str(model), backbone_options=options, text="")).eval()
    model_with_noise.save_pretrained(tmp_path / "model")
    again = TADPModel.from_pretrained(tmp_path / "model").eval()
    assert again.pyramid.backbone.passes == model_with_noise.pyramid.backbone.passes
    assert again.num_features == [16, 109, 109, 32]
    pairs = zip(model_with_noise(images(1, 64, 64)).feature_maps, again(images(1, 64, 64)).feature_maps, strict=True)
    assert all(relative_error(level_map, other_map) < 1e-5 for level_map, other_map in pairs)


def test_info_tells_timesteps_noise_and_channels(model, tmp_path):
    SD.save_pretrained(model / "scheduler")
    options = {"timestep": (1, 261), "combine_timesteps": "concatenate", "noise_samples": 3}
    TADPBackbone.from_pretrained(model, **options).save_pretrained(tmp_path / "saved")
    levels, _, facts = model_tables(str(tmp_path / "saved"))
    assert list(levels.columns[2].cells) == ["16", "32 + 77", "32 + 77", "32"]
    rows = dict(zip(*(column.cells for column in facts.columns), strict=True))
    assert rows["Timestep"] == "1, 261, concatenated; mean over 3 noises of seed 0"
    assert str(build_backbone(timestep=(0, 5)).passes) == "0, 5, averaged"
    assert str(backbone_with(timestep=5, noise_samples=1, noise_seed=2).passes) == "5; noise of seed 2"


# Errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timestep": ()}, r"timestep must be one number or several; got none"),
        ({"timestep": (5, 261, 5)}, r"timesteps must differ from each other; got \(5, 261, 5\)"),
        ({"timestep": (5, 1000)}, r"timestep must be from 0 to 999; got 1000"),
        (
            {"timestep": 50, "scheduler": DDPMScheduler(num_train_timesteps=50)},
            r"timestep must be from 0 to 49; got 50",
        ),
        ({"noise_samples": -1}, r"noise_samples must be 0 or more; got -1"),
        ({"noise_samples": 10**12}, r"noise_samples must be 10000 at most; got 1000000000000"),
        ({"noise_seed": -1, "noise_samples": 1}, r"noise_seed must be from 0 to 2\*\*63 - 1; got -1"),
        ({"noise_seed": 2**63}, r"noise_seed must be from 0 to 2\*\*63 - 1; got 9223372036854775808"),
        ({"combine_timesteps": "sum"}, r"combine_timesteps must be one of mean, concatenate; got 'sum'"),
        ({"noise_samples": 1, "scale_latents": False}, r"noise needs latents of unit scale; leave scale_latents"),
    ],
)
def test_what_has_no_meaning_is_refused(no_type_checker, options, message):
    with pytest.raises(ValueError, match=message):
        TADPBackbone(vae=build_vae(), unet=build_unet(), **({"scheduler": SD} | options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timestep": 1.5}, r"timestep must be a whole number; got 1\.5"),
        ({"timestep": "5"}, r"timestep must be a whole number; got '5'"),
        ({"timestep": torch.tensor([1, 261])}, r"timestep must be a whole number; got tensor\(\[  1, 261\]\)"),
        ({"timestep": [5, None]}, r"timestep must be a whole number; got None"),
        ({"noise_samples": True}, r"noise_samples must be a whole number; got True"),
        ({"noise_seed": None}, r"noise_seed must be a whole number; got None"),
        ({"scheduler": "DDIM"}, r"scheduler must be a diffusers scheduler or its configuration; got str"),
    ],
)
def test_what_is_no_number_is_refused(no_type_checker, options, message):
    with pytest.raises(TypeError, match=message):
        TADPBackbone(vae=build_vae(), unet=build_unet(), **({"scheduler": SD} | options))


def test_the_builders_unet_reads_its_time():
    """Otherwise the tests of timesteps would prove nothing."""
    unet = build_unet()
    assert isinstance(unet, UNet2DConditionModel)
    with torch.no_grad():
        features, other_features = (
            build_backbone(timestep=time).extract(latents(1, 8, 8)).maps[0] for time in (1, 261)
        )
    assert relative_error(features, other_features) > 1e-3
