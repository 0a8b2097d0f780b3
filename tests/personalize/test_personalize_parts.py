"""The parts of personalize: options, images, the objective, sampling, sheets."""

import inspect
from dataclasses import FrozenInstanceError, fields, replace

import numpy as np
import pytest
import torch
from builders import relative_error
from builders_personalize import build_model, pictures
from diffusers import AutoencoderKL, DDIMScheduler
from PIL import Image

import tadp
from tadp.drawing import sheet
from tadp.errors import CaptionError, MissingFileError
from tadp.images import MIN_SIZE
from tadp.personalize import RunOptions, denoising_loss, draw, dreambooth, learn_token, load_diffusion
from tadp.personalize.objective import Latents, denoising_losses
from tadp.personalize.run_options import (
    DREAMBOOTH_DEFAULTS,
    LORA_LR,
    MIN_SIDE_PX,
    TOKEN_DEFAULTS,
    UNET_LR,
    SettledOptions,
)
from tadp.personalize.training_images import Crop, TrainingImages, read_images


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return build_model(tmp_path_factory.mktemp("parts") / "sd")


@pytest.fixture(scope="module")
def model(source):
    return load_diffusion(source)


# Options


def test_options_are_frozen_and_checked_when_they_are_made_and_changed():
    options = RunOptions(steps=3)
    with pytest.raises(FrozenInstanceError):
        options.steps = 4  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValueError, match=r"steps must be 1 or more; got 0"):
        replace(options, steps=0)
    assert options == RunOptions(steps=3)
    assert MIN_SIDE_PX == MIN_SIZE


def test_a_method_settles_what_options_leave_open():
    settled = SettledOptions.of(RunOptions(lr=0.5, seed=7), TOKEN_DEFAULTS)
    assert (settled.steps, settled.batch_size, settled.lr, settled.checkpoint_every) == (5_000, 16, 0.5, 100)
    assert (settled.seed, settled.micro_batch, settled.side_px) == (7, None, None)
    assert SettledOptions.of(None, DREAMBOOTH_DEFAULTS | {"lr": 1.0}).steps == 1_000


def test_the_defaults_of_both_methods_are_in_the_docstring():
    text = " ".join((inspect.getdoc(RunOptions) or "").split())
    for name in ("steps", "batch_size", "checkpoint_every"):
        both = f"None is {TOKEN_DEFAULTS[name]:,} for a token and {DREAMBOOTH_DEFAULTS[name]:,} for DreamBooth."
        assert f"{name}: " in text
        assert both in text
    assert TOKEN_DEFAULTS["lr"] == LORA_LR
    rates = [f"{rate:.0e}".replace("e-0", "e-") for rate in (LORA_LR, UNET_LR)]
    assert f"None is {rates[0]} for a token or a LoRA and {rates[1]} for a whole U-Net." in text


@pytest.mark.parametrize("method", [learn_token, dreambooth])
def test_a_method_repeats_no_option(method):
    assert not set(inspect.signature(method).parameters) & {option.name for option in fields(RunOptions)}


def test_something_else_than_options_is_refused(source, no_type_checker):
    with pytest.raises(
        TypeError, match=r"options must be a RunOptions, such as options=RunOptions\(steps=100\); got dict"
    ):
        dreambooth(source, pictures(1), options={"steps": 2})


# Images


def test_shorter_sides_are_brought_to_one_length():
    read = read_images([np.zeros((30, 90, 3), np.uint8), np.zeros((200, 100, 3), np.uint8)], side_px=64)
    assert [image.shape for image in read.pixels] == [(64, 192, 3), (128, 64, 3)]


def test_an_image_of_the_right_size_is_left_as_it_is():
    pixels = pictures(1)[0]
    assert np.array_equal(read_images(pixels, side_px=64).pixels[0], pixels)


def test_a_crop_is_the_pixels_it_says():
    pixels = pictures(1)[0]
    images = TrainingImages([pixels], side_px=32)
    square = images.cut(Crop(0, 7, 5, False))
    expected = pixels[7:39, 5:37].transpose(2, 0, 1)
    assert torch.equal(square[0], torch.from_numpy(expected.copy()).float() / 255)
    assert torch.equal(images.cut(Crop(0, 7, 5, True)), square.flip(3))
    assert images.middle(0) == Crop(0, 16, 24, False)


@pytest.mark.parametrize(("flip", "random_crop"), [(True, True), (False, True), (True, False)])
def test_crops_cover_the_image_and_mirror_half(flip, random_crop):
    images = TrainingImages([np.zeros((64, 70, 3), np.uint8)], side_px=64, flip=flip, random_crop=random_crop)
    rng = np.random.default_rng(0)
    crops = [images.draw(0, rng) for _ in range(400)]
    assert {crop.top for crop in crops} == {0}
    assert {crop.left for crop in crops} == (set(range(7)) if random_crop else {3})
    share = np.mean([crop.mirrored for crop in crops])
    assert 0.4 < share < 0.6 if flip else share == 0


def test_a_digest_tells_images_and_their_order_apart():
    one, two = pictures(2)
    digests = {read_images(listed, side_px=64).digest for listed in ([one, two], [two, one], [one])}
    assert len(digests) == 3
    assert read_images([one.copy()], side_px=64).digest in digests


# The objective


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_loss_is_the_models_own(tmp_path, prediction):
    """An oracle from the betas: alpha-bar, the noisy latents and the target written out."""
    model = load_diffusion(build_model(tmp_path / "sd", prediction=prediction))
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(3, 4, 8, 8, generator=generator) for _ in range(2))
    text = torch.randn(3, 5, 16, generator=generator)
    times = torch.tensor([0, 400, 999])
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    kept = torch.cumprod(1 - betas, dim=0)[times].view(3, 1, 1, 1)
    noisy = (kept.sqrt() * latents + (1 - kept).sqrt() * noise).float()
    target = noise if prediction == "epsilon" else kept.sqrt() * noise - (1 - kept).sqrt() * latents
    with torch.no_grad():
        expected = (model.backbone.unet(noisy, times, text).sample - target).square().flatten(1).mean(dim=1)
        losses = denoising_losses(model, latents, noise=noise, timesteps=times, embeddings=text)
    assert relative_error(losses, expected) < 1e-4


def test_latents_are_samples_of_the_posterior(source, model):
    images = TrainingImages([pictures(1)[0]], side_px=64)
    crop, within = Crop(0, 0, 3, True), torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    vae = AutoencoderKL.from_pretrained(source / "vae")
    with torch.no_grad():
        posterior = vae.encode(images.cut(crop) * 2 - 1).latent_dist
    expected = (posterior.mean + posterior.std * within) * vae.config["scaling_factor"]
    latents = Latents(model, images)
    first = latents.sample([crop], within)
    torch.testing.assert_close(first, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(latents.sample([crop], within), first)


def test_the_denoising_loss_is_the_mean_over_even_times(model):
    images = pictures(2)
    losses = denoising_loss(model, images, captions=["a dog", "a cat"], draws=3, batch_size=2, seed=4)
    assert losses.shape == (2,)
    read = read_images(images, side_px=64)
    latents = Latents(model, read).sample([read.middle(1)], torch.zeros(1, 4, 8, 8))
    noise = torch.from_numpy(np.random.default_rng((4, 1)).standard_normal((3, 4, 8, 8), dtype=np.float32))
    with torch.no_grad():
        expected = denoising_losses(
            model,
            latents.repeat(3, 1, 1, 1),
            noise=noise,
            timesteps=torch.tensor([166, 500, 833]),
            embeddings=model.text_encoder("a cat").embeddings.repeat(3, 1, 1),
        )
    torch.testing.assert_close(losses[1], expected.mean())


def test_a_modifier_is_installed_while_it_is_measured(model):
    images = pictures(1)
    vectors = torch.ones(1, 16)
    modifier = tadp.CaptionModifier("{caption} <x>", token="<x>", embedding=vectors)
    plain = denoising_loss(model, images, captions="a dog", draws=2)
    changed = denoising_loss(model, images, captions="a dog", modifier=modifier, draws=2)
    assert not torch.equal(plain, changed)
    assert torch.equal(denoising_loss(model, images, captions="a dog", draws=2), plain)


def test_what_cannot_be_measured_is_refused(model):
    with pytest.raises(CaptionError, match=r"2 images but 3 captions"):
        denoising_loss(model, pictures(2), captions=["a", "b", "c"])
    with pytest.raises(ValueError, match=r"draws must be 1 or more; got 0"):
        denoising_loss(model, pictures(2), captions="a", draws=0)


# Sampling


def test_a_drawing_is_ddim_with_guidance(source, model):
    """An oracle: the loop written out with diffusers' own parts."""
    noise = np.random.default_rng((3, 0)).standard_normal((4, 8, 8), dtype=np.float32)
    schedule = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1,
    )  # fmt: skip
    schedule.set_timesteps(3)
    vae, unet = AutoencoderKL.from_pretrained(source / "vae"), model.backbone.unet
    latents = torch.from_numpy(noise)[None]
    with torch.no_grad():
        dog, empty = (model.text_encoder(text).embeddings for text in ("a dog", ""))
        for time in schedule.timesteps:
            said, plain = unet(latents, time, dog).sample, unet(latents, time, empty).sample
            latents = schedule.step(plain + 2.0 * (said - plain), time, latents).prev_sample
        pixels = vae.decode(latents / vae.config["scaling_factor"]).sample
    expected = ((pixels[0].clamp(-1, 1) + 1) * 127.5).permute(1, 2, 0)
    (image,) = draw(model, "a dog", seed=3, steps=3, guidance=2.0)
    assert np.abs(np.asarray(image, np.float32) - expected.numpy()).max() <= 1


def test_drawings_come_prompt_by_prompt_and_do_not_depend_on_the_batch(model):
    options = {"count": 2, "steps": 2, "seed": 1}
    images = draw(model, ["a dog", "a cat"], batch_size=3, **options)
    assert [image.size for image in images] == [(64, 64)] * 4
    alone = draw(model, "a cat", batch_size=1, **options)
    for one, other in zip(images[2:], alone, strict=True):
        assert np.abs(np.asarray(one, int) - np.asarray(other, int)).max() <= 1
    assert draw(model, "a dog", steps=1, side_px=128)[0].size == (128, 128)


@pytest.mark.parametrize("option", ["count", "steps", "batch_size"])
def test_drawing_nothing_is_refused(source, option):
    with pytest.raises(ValueError, match=rf"{option} must be 1 or more; got 0"):
        draw(source, "a dog", **{option: 0})


def test_a_model_without_a_decoder_cannot_draw(source, tmp_path):
    tadp.TADPBackbone.from_pretrained(source).save_pretrained(tmp_path)
    with pytest.raises(MissingFileError, match=r"has no decoder, because tadp saves backbones without it"):
        draw(tmp_path, "a dog")


def test_a_sheet_has_a_row_for_each_text():
    reds, blues = ([Image.new("RGB", (32, 32), colour)] * 2 for colour in ("red", "blue"))
    pixels = np.asarray(sheet([reds, blues], labels=["red", "blue"], title="step 1"))
    assert pixels.shape == (12 + 22 + 2 * (22 + 32 + 12), 2 * 44 + 12, 3)
    assert (pixels[56:88, 12:44] == (255, 0, 0)).all()
    assert (pixels[122:154, 56:88] == (0, 0, 255)).all()
    for text, start in ((pixels[:34], 12), (pixels[34:56], 12), (pixels[88:122], 12)):
        assert (text[:, start:] < 200).any()
