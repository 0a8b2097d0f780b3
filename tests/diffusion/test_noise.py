"""The amount of noise that a model's scheduler adds, and the noise itself."""

import json

import pytest
import torch
from builders import latents
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)

from tadp.diffusion.noise import ASSUMED_NOISE, SCHEDULER, NoiseSchedule, read_scheduler, scheduler_config, seeded_noise
from tadp.errors import CorruptFileError, ModelError

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
TIMES = (0, 1, 261, 500, 999)


@pytest.mark.parametrize(
    "scheduler",
    [
        DDPMScheduler(),  # linear betas
        DDIMScheduler(**SD),
        DDIMScheduler(**SD, prediction_type="v_prediction", rescale_betas_zero_snr=True),
        PNDMScheduler(**SD, skip_prk_steps=True),
        DDPMScheduler(trained_betas=torch.linspace(1e-4, 0.02, 1000).tolist()),
        DDPMScheduler(num_train_timesteps=1200, beta_schedule="squaredcos_cap_v2"),
    ],
    ids=lambda scheduler: f"{type(scheduler).__name__} {scheduler.config.beta_schedule}",
)
def test_noise_is_added_as_the_models_own_scheduler_does(scheduler):
    clean, noise = latents(2, 8, 12), latents(2, 8, 12, seed=1)
    schedule = NoiseSchedule.of(scheduler_config(scheduler), kind="diffusion")
    assert len(schedule.noise) == scheduler.config.num_train_timesteps
    for time in TIMES:
        expected = scheduler.add_noise(clean, noise, torch.tensor([time, time]))
        torch.testing.assert_close(schedule.add(clean, noise, time), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in diffusers
def test_a_scheduler_of_sigmas_gives_the_same_input_to_the_model():
    """Euler schedulers, which SDXL and SD-Turbo use, add σ·ε and then scale by 1/√(1 + σ²)."""
    scheduler = EulerDiscreteScheduler(**SD)
    schedule = NoiseSchedule.of(scheduler_config(scheduler), kind="diffusion")
    clean, noise = latents(1, 8, 8), latents(1, 8, 8, seed=1)
    for time in (1, 261, 999):
        scheduler.set_timesteps(timesteps=[time])
        now = scheduler.timesteps[0]
        seen = scheduler.scale_model_input(scheduler.add_noise(clean, noise, now[None]), now)
        torch.testing.assert_close(schedule.add(clean, noise, time), seen, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("config", [None, scheduler_config(FlowMatchEulerDiscreteScheduler(shift=3.0))])
def test_flow_matching_mixes_by_the_time_that_the_model_is_told(config):
    scheduler = (
        FlowMatchEulerDiscreteScheduler()
    )  # its steps are 1 to 1,000; a shift only changes which of them are used
    schedule = NoiseSchedule.of(config, kind="flow")
    clean, noise = latents(2, 8, 8), latents(2, 8, 8, seed=1)
    for time in (1, 261, 999):
        expected = scheduler.scale_noise(clean, torch.tensor([time, time]), noise)
        torch.testing.assert_close(schedule.add(clean, noise, time), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(schedule.add(clean, noise, 0), clean)


def test_a_scheduler_of_betas_may_run_on_flow_sigmas():
    config = scheduler_config(UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction"))
    assert NoiseSchedule.of(config, kind="diffusion") == NoiseSchedule.of(None, kind="flow")


def test_without_a_scheduler_the_noise_is_stable_diffusions():
    assert NoiseSchedule.of(None, kind="diffusion") == NoiseSchedule.of(
        scheduler_config(PNDMScheduler(**SD)), kind="diffusion"
    )
    schedule = NoiseSchedule.of(None, kind="diffusion")
    assert schedule.noise[0] == pytest.approx((1 - (1 - 0.00085)) ** 0.5, rel=1e-4)  # ᾱ_0 = 1 - β_0: 3 %, not 0
    assert all(a**2 + b**2 == pytest.approx(1, abs=1e-6) for a, b in zip(schedule.signal, schedule.noise, strict=True))


def test_other_ways_of_adding_noise_are_refused():
    with pytest.raises(ModelError, match=r"scheduler is a EDMEulerScheduler; .* Pass noise_samples=0"):
        NoiseSchedule.of(scheduler_config(EDMEulerScheduler()), kind="diffusion")


def test_half_precision_is_mixed_in_single():
    clean, noise = latents(1, 8, 8).bfloat16(), latents(1, 8, 8, seed=1)
    schedule = NoiseSchedule.of(None, kind="diffusion")
    mixed = schedule.add(clean, noise, 0)
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, schedule.add(clean.float(), noise, 0))
    assert schedule.add(clean.double(), noise, 0).dtype == torch.float64


# The noise


def test_noise_is_unit_noise_and_each_number_has_its_own():
    drawn = torch.cat([seeded_noise(latents(1, 64, 64), seed=0, number=number) for number in range(8)])
    count = drawn[0].numel()
    assert drawn.dtype == torch.float32
    assert drawn.mean(dim=(1, 2, 3)).abs().max() < 4 / count**0.5
    assert (drawn.var(dim=(1, 2, 3)) - 1).abs().max() < 4 * (2 / count) ** 0.5
    flat = drawn.flatten(1)
    correlation = torch.corrcoef(flat) - torch.eye(8)
    assert correlation.abs().max() < 5 / count**0.5
    channels = torch.corrcoef(drawn.transpose(0, 1).flatten(1)) - torch.eye(4)
    assert channels.abs().max() < 5 / (8 * 64 * 64) ** 0.5
    assert abs((flat**4).mean().item() - 3) < 0.1  # Gaussian


def test_noise_depends_on_seed_number_and_size_alone():
    first = seeded_noise(latents(1, 8, 12), seed=7, number=2)
    torch.manual_seed(5)
    again = seeded_noise(latents(3, 8, 12, seed=9).bfloat16(), seed=7, number=2)
    assert first.shape == (1, 4, 8, 12)
    assert torch.equal(first, again)
    for other in ({"seed": 8, "number": 2}, {"seed": 7, "number": 3}, {"seed": 2, "number": 7}):
        assert not torch.equal(first, seeded_noise(latents(1, 8, 12), **other))


def test_drawing_noise_leaves_the_global_generators_alone():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    seeded_noise(latents(1, 8, 8), seed=0, number=0)
    assert torch.equal(torch.rand(4), expected)


def test_shapes_are_known_without_drawing():
    with torch.device("meta"):
        like = torch.empty(2, 4, 8, 8)
    outcomes = torch.library.opcheck(torch.ops.tadp.draw_noise.default, ([4, 8, 8], 3, 1))
    assert set(outcomes.values()) == {"SUCCESS"}
    assert seeded_noise(like, seed=0, number=0).device.type == "meta"


# Configurations


def test_a_configuration_is_that_of_the_file(tmp_path):
    scheduler = DDIMScheduler(**SD)
    scheduler.save_pretrained(tmp_path / "scheduler")
    assert scheduler_config(scheduler) == read_scheduler(tmp_path)
    assert scheduler_config(read_scheduler(tmp_path)) == read_scheduler(tmp_path)
    assert scheduler_config(None) is None
    assert read_scheduler(tmp_path / "scheduler") is None


def test_what_is_no_scheduler_is_refused(tmp_path, no_type_checker):
    with pytest.raises(TypeError, match=r"scheduler must be a diffusers scheduler or its configuration; got str"):
        scheduler_config("DDIM")
    (tmp_path / "scheduler").mkdir()
    (tmp_path / SCHEDULER).write_text("{")
    with pytest.raises(CorruptFileError, match=r"scheduler_config\.json is not JSON"):
        read_scheduler(tmp_path)


def test_the_assumed_noise_is_the_embedded_models_too():
    from tadp.assets import tiny_folder

    config = json.loads((tiny_folder() / SCHEDULER).read_text())
    assert {key: config[key] for key in SD} == {key: ASSUMED_NOISE[key] for key in SD}
