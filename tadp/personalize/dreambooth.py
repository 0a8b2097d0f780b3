"""DreamBooth: tune the U-Net, or a LoRA of it, until a rare word means what a few images share."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tadp.errors import ModifierError
from tadp.files.atomic import replace_folder
from tadp.files.checks import check_whole
from tadp.modifiers import CaptionModifier
from tadp.personalize.loop import Concept, train
from tadp.personalize.prior import prior_images as read_or_draw
from tadp.personalize.run_options import RunOptions, check_number
from tadp.personalize.runs import identity_of, keep
from tadp.personalize.trained_model import DiffusionModel, load_diffusion
from tadp.personalize.training_images import Captions, Images
from tadp.personalize.training_prompts import style_template
from tadp.tasks.lora_training import add_lora, save_lora
from tadp.text.learned_tokens import check_token

LR, LORA_LR = 5e-6, 1e-4


def dreambooth(
    model: str | Path,
    images: Images,
    *,
    token: str = "sks",
    prompt: str | None = None,
    instance_prompt: str | None = None,
    captions: Captions | None = None,
    prior_images: Images | int | None = None,
    prior_prompt: str | None = None,
    prior_weight: float = 1.0,
    lora_rank: int | None = None,
    steps: int = 1_000,
    batch_size: int = 1,
    micro_batch: int | None = None,
    lr: float | None = None,
    weight_decay: float = 1e-2,
    max_grad_norm: float | None = 1.0,
    seed: int = 0,
    side_px: int | None = None,
    flip: bool = True,
    random_crop: bool = True,
    skip_unreadable: bool = False,
    output: str | Path | None = None,
    resume: bool = True,
    checkpoint_every: int = 500,
    sample_every: int = 500,
    sample_prompts: Sequence[str] | None = None,
    gradient_checkpointing: bool = False,
    adam_8bit: bool = False,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
    **source: Any,
) -> CaptionModifier:
    """Tune a U-Net on a few images, so that a word that says little becomes their style or thing.

    The text encoder and the VAE stay as they are. The loss is the model's own, as in `learn_token`.

    With `output`, the folder gets the modifier (unet/, which diffusers reads, and modifier.json), training.json,
    samples/, with a LoRA also pytorch_lora_weights.safetensors for diffusers' `load_lora_weights`, and
    checkpoint.safetensors, three times the size of what trains, from which a run that was killed goes on; delete it
    when no more steps are wanted.

    Args:
        model: "tadp-tiny", a folder in diffusers layout, or a hub id.
        images: Five to twenty, as `learn_token` takes them.
        token: A word with hardly a meaning of its own; it may be in the vocabulary.
        prompt: Template of the modifier that is returned, with the token; by default the paper's "a sks style painting
            of {caption}".
        instance_prompt: What the images are called in training, with the token. By default the prompt with each image's
            caption, or without one, "a sks style painting". The released script has "an image in sks style".
        captions: Of the images, as `learn_token` takes them.
        prior_images: Prior preservation: images that the U-Net is to remember, or how many the model shall draw before
            it is trained; None is none, as in the released script.
        prior_prompt: What those show, "a painting".
        prior_weight: Of their loss.
        lora_rank: Train a LoRA of this rank on all attention projections; None trains the whole U-Net. The modifier
            has it merged into a U-Net. Needs peft.
        steps: Steps of the optimiser.
        batch_size: Images a step, and as many prior ones.
        micro_batch: Images at once, if the memory is not enough for all of a step.
        lr: Learning rate, the same for all steps; None is 5e-6, for a LoRA 1e-4.
        weight_decay: AdamW's.
        max_grad_norm: To which the gradient is clipped; None leaves it.
        seed: Of all random numbers. One seed gives one U-Net.
        side_px: Side of the squares; None is what the model was trained on.
        flip: Mirror every other image, by chance.
        random_crop: Cut squares anywhere along the longer side, not in the middle alone.
        skip_unreadable: Leave out images that cannot be read, with a warning.
        output: Folder for the result, samples and the checkpoint; None keeps nothing on disk.
        resume: Go on with the checkpoint in `output`.
        checkpoint_every: Steps from one checkpoint to the next.
        sample_every: Steps from one sheet of samples to the next; 0 draws none. Needs the VAE's decoder.
        sample_prompts: What the sheets show; by default an image without caption, and the prior prompt.
        gradient_checkpointing: Less memory for more time.
        adam_8bit: bitsandbytes' 8-bit AdamW.
        dtype: What to compute in, e.g. `torch.bfloat16`; None is float32. What trains is float32 in any case.
        device: Where to train; None is the CPU.
        progress: Show a bar.
        **source: `revision`, `variant`, `cache_dir`, `hub_token`, `local_files_only` of the model.

    Returns:
        A modifier with the tuned U-Net, float32 on the CPU.

    Raises:
        ModifierError: If a prompt lacks the token, prior images and prompt do not come together, the loss is not
            finite, or the checkpoint is of another run.
        ImageError: If there are no images, or one cannot be read; all that cannot are named, before any training.
        CaptionError: If a text is too long, or captions are not one an image.
        MissingExtraError: If peft or bitsandbytes is wanted and not installed.
        ModelError: If the model is not to be had or lacks a part.
        OutputError: If something cannot be written; the last checkpoint is untouched.
        TypeError: If an argument is of a wrong kind.
        ValueError: If a number is out of its range.

    Source:
        Ruiz et al. 2023; TADP Sec. 4.3. Steps, batch and rate are those of the released dreambooth_pascal.sh, decay and
        clipping train_dreambooth.py's defaults. It passes a number of prior images but not --with_prior_preservation,
        so it trained without; and it never mirrors.

    Example:
        >>> from tadp.datasets.scenes import Scenes
        >>> images = [Scenes(1, seed=0, style="comic")[0].image]
        >>> modifier = dreambooth("tadp-tiny", images, steps=1, lora_rank=2, progress=False)
        >>> modifier("a dog")
        ['a sks style painting of a dog']
    """
    options = RunOptions.given(locals(), lr=lr if lr is not None else LR if lora_rank is None else LORA_LR)
    check_token(token)
    check_number("prior_weight", prior_weight, or_zero=True)
    if lora_rank is not None:
        check_whole(lora_rank, name="lora_rank")
    written = style_template(token) if prompt is None else prompt
    words = CaptionModifier(written)
    shown = options.shown([instance_prompt or words("")[0], *([] if prior_prompt is None else [prior_prompt])])
    _check_prompts(token, words, instance_prompt, prior_images=prior_images, prior_prompt=prior_prompt)
    loaded = _load(model, whole=lora_rank is None, dtype=dtype, device=device, source=source)
    read = options.read(images, captions=captions, usual_px=loaded.side_px)
    called = [instance_prompt] * len(read) if instance_prompt else words(read.captions or [""] * len(read))
    loaded.text_encoder.check_fit([*called, *shown])
    concepts = [Concept(read, [[text] for text in called])]
    if prior_images is not None and prior_prompt is not None:
        remembered = read_or_draw(loaded, prior_images, prompt=prior_prompt, like=read, options=options)
        concepts.append(Concept(remembered, [[prior_prompt]] * len(remembered), prior_weight))
    identity = identity_of(loaded, concepts, options, kind="dreambooth", prompt=written, lora_rank=lora_rank)
    train(
        loaded,
        concepts,
        trained=_prepare(loaded, options, lora_rank=lora_rank),
        options=options,
        identity=identity,
        shown=shown,
        description=f"tuning the U-Net to {token}",
    )
    modifier = CaptionModifier(written, unet=_finish(loaded, output=options.output, is_lora=lora_rank is not None))
    keep(modifier, identity, options)
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
            raise ModifierError(f"the {name} {text!r} lacks the token {token!r}; write it there, or pass token=.")
    if (prior_images is None) != (prior_prompt is None):
        raise ModifierError(
            "prior preservation needs images and what they show; pass both, e.g. prior_images=200 to have them drawn, "
            "and prior_prompt='a painting'."
        )


def _load(
    name: str | Path,
    *,
    whole: bool,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
    source: Mapping[str, Any],
) -> DiffusionModel:
    """The model; a U-Net that trains as a whole is float32, whatever the rest is."""
    loaded = load_diffusion(name, dtype=None if whole else dtype, device=device, **source)
    if whole and dtype is not None:
        loaded.backbone.vae.to(dtype)
        loaded.text_encoder.to(dtype)
        loaded = replace(loaded, precision=dtype)
    return loaded


def _prepare(model: DiffusionModel, options: RunOptions, *, lora_rank: int | None) -> dict[str, nn.Parameter]:
    """What trains of the U-Net, by name."""
    unet = model.backbone.unet
    if lora_rank is None:
        unet.requires_grad_(True)
    else:
        with torch.random.fork_rng():
            torch.manual_seed(options.seed)
            add_lora(unet, model.backbone.layout, rank=lora_rank)
    trained = {name: one for name, one in unet.named_parameters() if one.requires_grad}
    for parameter in trained.values():
        parameter.data = parameter.data.float()
    if options.gradient_checkpointing:
        model.backbone.enable_gradient_checkpointing()
    return trained


def _finish(model: DiffusionModel, *, output: Path | None, is_lora: bool) -> Any:
    """The tuned U-Net, a LoRA merged into it after it was written."""
    unet: Any = model.backbone.unet
    model.backbone.enable_gradient_checkpointing(False)
    unet.float().cpu()
    if is_lora:
        if output is not None:
            with replace_folder(output) as part:
                save_lora(unet, part)
        unet.fuse_lora()
        unet.unload_lora()
    return unet.eval().requires_grad_(False)
