"""DreamBooth: tune the U-Net, or a LoRA of it, so that a rare word stands for the concept that a few images share."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from tadp.errors import Argument, ImageError, ModifierError
from tadp.files.atomic import replace_file
from tadp.files.checks import check_whole
from tadp.files.hub import HubOptions
from tadp.files.progress import tracked
from tadp.files.run_lock import one_run_per_output
from tadp.images.reading import to_pil
from tadp.modifiers import CaptionModifier
from tadp.modifiers.caption_templates import DREAMBOOTH_WORD, style_template
from tadp.personalize.loop import train
from tadp.personalize.run_folder import RECORD_NAME, RunFolder, identity_of
from tadp.personalize.run_options import (
    DREAMBOOTH_DEFAULTS,
    LORA_LR,
    UNET_LR,
    RunOptions,
    SettledOptions,
    check_number,
)
from tadp.personalize.sampling import Sampler
from tadp.personalize.trained_model import DiffusionModel, load_diffusion
from tadp.personalize.training_images import PRIOR, Captions, Concept, Images, TrainingImages, read_images
from tadp.tasks.lora_training import add_lora, lora_tensors
from tadp.text.learned_tokens import check_token

_PRIOR_STREAM = 2  # a stream of random numbers, as in the training loop
_DRAWN_AT_ONCE = 4


@one_run_per_output
def dreambooth(
    model: str | Path,
    images: Images,
    *,
    token: str = DREAMBOOTH_WORD,
    prompt: str | None = None,
    instance_prompt: str | None = None,
    captions: Captions | None = None,
    prior_images: Images | int | None = None,
    prior_prompt: str | None = None,
    prior_weight: float = 1.0,
    lora_rank: int | None = None,
    max_grad_norm: float | None = 1.0,
    output: str | Path | None = None,
    options: RunOptions | None = None,
    hub: HubOptions | None = None,
) -> CaptionModifier:
    """Tune a U-Net on a few images, so that a word with little meaning of its own stands for their style or object.

    The text encoder and the VAE do not change. The loss is the denoising loss with which the model was trained: the
    error of predicting the noise or the velocity.

    With `output`, the folder gets the modifier (unet/, which diffusers reads, and modifier.json), training.json,
    samples/, and checkpoint.safetensors; with a LoRA also pytorch_lora_weights.safetensors for diffusers'
    `load_lora_weights`. A run that was killed continues from the checkpoint, which is three times the size of the
    parameters that train; delete it when you need no more steps.

    Args:
        model: The model whose U-Net is tuned: "tadp-tiny", a folder in diffusers layout, or a hub id.
        images: Five to twenty images: a folder, a pattern, a list of paths, PIL images, arrays or tensors, or a batch.
        token: A word with hardly any meaning of its own, "sks" by default. It can be in the vocabulary.
        prompt: Template of the returned modifier, which contains the token; None is the paper's "a sks style painting
            of {caption}".
        instance_prompt: Training text of every image. None is the template with the image's caption, or "a sks style
            painting" if no captions are passed. The paper's released script has "an image in sks style".
        captions: Captions of the images: a list in the same order, or a mapping from image id to caption with the ids
            of `tadp caption` (see `learn_token`). None trains without captions.
        prior_images: Other images of the same kind, so that the U-Net does not forget how to draw them (prior
            preservation), or the number of such images that the model draws before training. None trains without them,
            as the released script does.
        prior_prompt: Training text of the prior images, such as "a painting"; required with `prior_images`.
        prior_weight: Weight of the loss on the prior images; the loss on the training images has weight 1.
        lora_rank: Rank of a LoRA for all attention projections, which trains instead of the U-Net; None trains the
            whole U-Net. The returned modifier has a U-Net with the LoRA merged into it. A LoRA needs peft.
        max_grad_norm: Largest norm of the gradient; a larger gradient is scaled down. None does not limit it.
        output: Folder for the result, samples and the checkpoint; None writes nothing to disk.
        options: Steps, learning rate, seed, device and the other options of the run; None is all defaults. Each step
            has as many prior images as training images.
        hub: Revision and download options of a model on the hub; None is `HubOptions()`.

    Returns:
        A modifier with the tuned U-Net, float32 on the CPU.

    Raises:
        ModifierError: If a prompt lacks the token, only one of `prior_images` and `prior_prompt` is passed, the loss is
            not finite, or the checkpoint belongs to another run.
        ImageError: If no images are found, or some cannot be read. The message names all of these, before training.
        CaptionError: If a text is too long, or the number of captions is not that of the images.
        MissingExtraError: If peft or bitsandbytes is needed and not installed.
        ModelError: If the model is not available or lacks a part.
        OutputError: If a file cannot be written. The last checkpoint is kept.
        TypeError: If an argument has the wrong type.
        ValueError: If a number is out of its range.

    Source:
        Ruiz et al. 2023; TADP Sec. 4.3. Steps, batch size and learning rate are those of the paper's released
        dreambooth_pascal.sh; weight decay and clipping are the defaults of train_dreambooth.py. The script passes a
        number of prior images but not --with_prior_preservation, so it trained without them. It never mirrors images.

    Example:
        >>> from tadp.datasets.scenes import Scenes
        >>> images = [Scenes(1, seed=0, style="comic")[0].image]
        >>> modifier = dreambooth("tadp-tiny", images, lora_rank=2, options=RunOptions(steps=1, progress=False))
        >>> modifier("a dog")
        ['a sks style painting of a dog']
    """
    rate = UNET_LR if lora_rank is None else LORA_LR
    settled = SettledOptions.of(options, {**DREAMBOOTH_DEFAULTS, "lr": rate})
    output = None if output is None else Path(output)
    lora_rank = None if lora_rank is None else check_whole(lora_rank, name="lora_rank")
    check_number("prior_weight", prior_weight, or_zero=True)
    if max_grad_norm is not None:
        check_number("max_grad_norm", max_grad_norm)
    check_token(token)
    words = CaptionModifier(style_template(token) if prompt is None else prompt)
    _check_prompts(token, words, instance_prompt, prior_images=prior_images, prior_prompt=prior_prompt)
    usual = [instance_prompt or words("")[0], *([] if prior_prompt is None else [prior_prompt])]
    prompts = settled.sample_prompts or usual
    loaded = _load(model, settled, whole=lora_rank is None, hub=hub)
    read = read_images(
        images,
        side_px=settled.side_px or loaded.side_px,
        captions=captions,
        skip_unreadable=settled.skip_unreadable,
        output=output,
        flip=settled.flip,
        random_crop=settled.random_crop,
    )
    called = [instance_prompt] * len(read) if instance_prompt else words(read.captions or [""] * len(read))
    loaded.text_encoder.check_fit([*called, *prompts])
    concepts = [Concept(read, [[text] for text in called])]
    if prior_images is not None and prior_prompt is not None:
        prior = _prior(loaded, prior_images, prompt=prior_prompt, like=read, options=settled, output=output)
        concepts.append(Concept(prior, [[prior_prompt]] * len(prior), prior_weight))
    template = words.templates[0]
    own = {"kind": "dreambooth", "prompt": template, "lora_rank": lora_rank, "max_grad_norm": max_grad_norm}
    folder = RunFolder(output, identity=identity_of(loaded, concepts, settled, **own), resume=settled.resume)
    train(
        loaded,
        concepts,
        trained=_prepare(loaded, settled, lora_rank=lora_rank),
        options=settled,
        folder=folder,
        sample_prompts=prompts,
        description=f"tuning the U-Net to {token}",
        max_grad_norm=max_grad_norm,
    )
    unet, lora = _finish(loaded, output=output, lora_rank=lora_rank)
    modifier = CaptionModifier(template, unet=unet, lora=lora)
    folder.finish(modifier, steps=settled.steps)
    return modifier


def _check_prompts(
    token: str,
    words: CaptionModifier,
    instance_prompt: str | None,
    *,
    prior_images: Images | int | None,
    prior_prompt: str | None,
) -> None:
    for name, text in (("prompt", words("")[0]), ("instance_prompt", instance_prompt)):
        if text is not None and token.lower() not in text.lower():
            lacks = f"the {name} {text!r} lacks the token {token!r}; write it there, or pass another "
            raise ModifierError(lacks, Argument("token"), ".")
    if (prior_images is None) != (prior_prompt is None):
        raise ModifierError(
            "prior preservation needs images and a prompt; pass both, e.g. prior_images=200 to draw 200 images, and ",
            Argument("prior_prompt", "a painting"),
            ".",
        )


def _load(name: str | Path, options: SettledOptions, *, whole: bool, hub: HubOptions | None) -> DiffusionModel:
    """The model; a U-Net that trains as a whole is float32, whatever the rest is."""
    dtype = options.dtype
    loaded = load_diffusion(name, dtype=None if whole else dtype, device=options.device, hub=hub)
    if whole and dtype is not None:
        loaded.backbone.vae.to(dtype)
        loaded.text_encoder.to(dtype)
        loaded = replace(loaded, precision=dtype)
    return loaded


def _prepare(model: DiffusionModel, options: SettledOptions, *, lora_rank: int | None) -> dict[str, nn.Parameter]:
    """The parameters of the U-Net that train, by name."""
    unet = model.backbone.unet
    if lora_rank is None:
        unet.requires_grad_(True)
    else:
        with torch.random.fork_rng():
            torch.manual_seed(options.seed)
            add_lora(unet, model.backbone.layout, rank=lora_rank)
    trained = {name: parameter for name, parameter in unet.named_parameters() if parameter.requires_grad}
    for parameter in trained.values():
        parameter.data = parameter.data.float()
    if options.gradient_checkpointing:
        model.backbone.enable_gradient_checkpointing()
    return trained


def _finish(
    model: DiffusionModel, *, output: Path | None, lora_rank: int | None
) -> tuple[Any, dict[str, torch.Tensor] | None]:
    """The tuned U-Net, and the LoRA that was merged into it, if there is one."""
    unet: Any = model.backbone.unet
    model.backbone.enable_gradient_checkpointing(False)
    unet.float().cpu()
    if output is not None:
        (output / RECORD_NAME).unlink(missing_ok=True)  # the record of an older run does not belong to this one
    lora = None
    if lora_rank is not None:
        lora = {name: tensor.detach().clone() for name, tensor in lora_tensors(unet, rank=lora_rank).items()}
        unet.fuse_lora()
        unet.unload_lora()
    return unet.eval().requires_grad_(False), lora


def _prior(
    model: DiffusionModel,
    images: Images | int,
    *,
    prompt: str,
    like: TrainingImages,
    options: SettledOptions,
    output: Path | None,
) -> TrainingImages:
    """Read the prior images, or draw them with the model. They are cropped like the training images.

    Drawn images are written to OUTPUT/prior-…/0000.png and so on. A run that continues reads these files again, and
    draws those that are missing or damaged.

    Args:
        model: The model that draws the images.
        images: The prior images, or the number of images to draw.
        prompt: Text of the prior images.
        like: The training images, whose way of cropping is used.
        options: The options of the run.
        output: The run's folder; None writes nothing to disk.
    """
    crops: dict[str, Any] = {"side_px": like.side_px, "flip": like.flip, "random_crop": like.random_crop}
    if not isinstance(images, int):
        return read_images(images, **crops)
    check_whole(images, name="prior_images")
    drawn = _draw_prior(model, images, prompt, like.side_px, options, output)
    return TrainingImages([np.asarray(image) for image in drawn], **crops)


def _draw_prior(
    model: DiffusionModel, count: int, prompt: str, side_px: int, options: SettledOptions, output: Path | None
) -> list[Image.Image]:
    source = model.backbone.source
    made_from = json.dumps([source and source.name, source and source.revision, prompt, options.seed, side_px])
    folder = None if output is None else output / f"{PRIOR}{hashlib.sha256(made_from.encode()).hexdigest()[:8]}"
    sampler = None
    drawn: list[Image.Image] = []
    # The same images are always drawn together, so that a run that continues draws the same ones.
    starts = range(0, count, _DRAWN_AT_ONCE)
    for start in tracked(starts, len(starts), what="drawing prior images", unit="batch", is_shown=options.progress):
        numbers = range(start, start + _DRAWN_AT_ONCE)
        paths = [] if folder is None else [folder / f"{number:04}.png" for number in numbers]
        batch = _read_drawn(paths)
        if batch is None:
            sampler = sampler or Sampler(model)
            keys = [(options.seed, _PRIOR_STREAM, number) for number in numbers]
            batch = sampler.draw([prompt] * _DRAWN_AT_ONCE, keys=keys, side_px=side_px)
            for path, image in zip(paths, batch, strict=False):
                with replace_file(path) as part:
                    image.save(part, format="PNG")
        drawn += batch
    return drawn[:count]


def _read_drawn(paths: list[Path]) -> list[Image.Image] | None:
    """The images that were drawn before; None if one is missing or damaged, because all are drawn together."""
    if not paths or not all(path.exists() for path in paths):
        return None
    try:
        return [to_pil(path) for path in paths]
    except ImageError:
        return None
