"""Textual inversion: learn the vectors of a new word from a few images, and nothing else."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tadp.errors import CaptionError, ModifierError
from tadp.files.checks import check_whole
from tadp.modifiers import CaptionModifier
from tadp.personalize.loop import Concept, train
from tadp.personalize.run_options import RunOptions
from tadp.personalize.runs import identity_of, keep
from tadp.personalize.trained_model import load_diffusion
from tadp.personalize.training_images import Captions, Images, TrainingImages
from tadp.personalize.training_prompts import Kind, style_template, texts_of
from tadp.text.encoder import TextEncoder
from tadp.text.learned_tokens import add_token, check_token, token_names


def learn_token(
    model: str | Path,
    images: Images,
    *,
    token: str,
    initializer: str,
    vectors: int = 1,
    kind: Kind = "style",
    template: str | None = None,
    texts: Sequence[str] | None = None,
    captions: Captions | None = None,
    steps: int = 5_000,
    batch_size: int = 16,
    micro_batch: int | None = None,
    lr: float = 1e-4,
    weight_decay: float = 1e-2,
    seed: int = 0,
    side_px: int | None = None,
    flip: bool = True,
    random_crop: bool = True,
    skip_unreadable: bool = False,
    output: str | Path | None = None,
    resume: bool = True,
    checkpoint_every: int = 100,
    sample_every: int = 500,
    sample_prompts: Sequence[str] | None = None,
    gradient_checkpointing: bool = False,
    adam_8bit: bool = False,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
    **source: Any,
) -> CaptionModifier:
    """Learn a word that means what a few images share, such as their style.

    The U-Net, the VAE and the text encoder with all words it knows stay as they are, bit for bit. The loss is the
    model's own: the error of predicting the noise, or the velocity, as its scheduler says.

    With `output`, the folder gets the modifier (learned_embeds.safetensors, which diffusers reads, and modifier.json),
    training.json, samples/, and checkpoint.safetensors. A run that was killed goes on from there when it is asked for
    again, and ends with the same token as one that was not; a finished run returns at once, and one that is asked for
    more steps takes them. On a GPU, equal runs may differ in their last bits.

    Args:
        model: "tadp-tiny", a folder in diffusers layout, or a hub id.
        images: Five to twenty: a folder, a pattern, a list of paths, PIL images, arrays or tensors, or a batch.
        token: The new word, "<watercolor>". None that the tokenizer has. In small letters, if it has several vectors.
        initializer: A word of one token whose vector the new ones start from, "painting".
        vectors: How many vectors the word has.
        kind: "style" or "object": which of the `texts` and of the `template`s is the default.
        template: Of the modifier that is returned. By default "a <token> style painting of {caption}", as the paper
            has it, for a style; for an object "{caption}", and captions use the token.
        texts: What the images are called in training, each with `{token}`; textual inversion's lists by default.
        captions: Of the images, one each, or by the id that `tadp caption` gives them: the name without suffix, with
            its folder where two have one name. Then each image's text is the template with its caption, and `texts`
            are not used.
        steps: Steps of the optimiser.
        batch_size: Images a step.
        micro_batch: Images at once, if the memory is not enough for all of a step.
        lr: Learning rate, the same for all steps.
        weight_decay: AdamW's.
        seed: Of all random numbers. One seed gives one token.
        side_px: Side of the squares; None is what the model was trained on.
        flip: Mirror every other image, by chance.
        random_crop: Cut squares anywhere along the longer side, not in the middle alone.
        skip_unreadable: Leave out images that cannot be read, with a warning.
        output: Folder for the result, samples and the checkpoint; None keeps nothing on disk.
        resume: Go on with the checkpoint in `output`.
        checkpoint_every: Steps from one checkpoint to the next.
        sample_every: Steps from one sheet of samples to the next; 0 draws none. Needs the VAE's decoder.
        sample_prompts: What the sheets show, whole texts with the token.
        gradient_checkpointing: Less memory for more time.
        adam_8bit: bitsandbytes' 8-bit AdamW.
        dtype: Of the model, e.g. `torch.bfloat16`; None is float32. The vectors are float32 in any case.
        device: Where to train; None is the CPU.
        progress: Show a bar.
        **source: `revision`, `variant`, `cache_dir`, `hub_token`, `local_files_only` of the model.

    Returns:
        A modifier with the token and its vectors.

    Raises:
        ModifierError: If the token cannot be one or is in the vocabulary, the initializer is not one token, the loss is
            not finite, or the checkpoint is of another run.
        ImageError: If there are no images, or one cannot be read; all that cannot are named, before any training.
        CaptionError: If a text is too long, or captions are not one an image.
        ModelError: If the model is not to be had or lacks a part.
        OutputError: If something cannot be written; the last checkpoint is untouched.
        TypeError: If an argument is of a wrong kind.
        ValueError: If a number is out of its range.

    Source:
        Gal et al. 2023; TADP Sec. 4.3. Steps, batch, rate and decay are the defaults of the released
        textual_inversion_script.py, to which textual_inversion_pascal.sh adds none. Its schedule is called "constant",
        which has no warm-up. It squeezes images into a square; ours are cropped.

    Example:
        >>> from tadp.datasets.scenes import Scenes
        >>> images = [Scenes(1, seed=0, style="watercolor")[0].image]
        >>> modifier = learn_token(
        ...     "tadp-tiny", images, token="<wash>", initializer="painting", steps=1, batch_size=1, progress=False
        ... )
        >>> modifier("a dog")
        ['a <wash> style painting of a dog']
    """
    options = RunOptions.given(locals(), max_grad_norm=None)
    _check_word(token, initializer, vectors)
    called = texts_of(token, kind=kind, texts=texts)
    usual = "{caption}" if kind == "object" else style_template(token)
    written = usual if template is None else template
    words = CaptionModifier(written, token=token)
    shown = options.shown([f"a photo of a {token}"] if kind == "object" else words(""))
    loaded = load_diffusion(model, dtype=dtype, device=device, **source)
    start = _initial(loaded.text_encoder, initializer, vectors)
    add_token(loaded.text_encoder, token, start)
    read = options.read(images, captions=captions, usual_px=loaded.side_px)
    concept = Concept(read, _texts(read, words, called, token))
    loaded.text_encoder.check_fit([text for one in (*concept.texts, shown) for text in one])
    identity = identity_of(
        loaded, [concept], options, kind="token", token=token, initializer=initializer, vectors=vectors
    )
    if gradient_checkpointing:
        loaded.backbone.enable_gradient_checkpointing()
    learned = nn.Parameter(start.float().clone())
    with _meaning(loaded.text_encoder, token, learned):
        train(
            loaded,
            [concept],
            trained={"vectors": learned},
            options=options,
            identity=identity,
            shown=shown,
            description=f"learning {token}",
        )
    modifier = CaptionModifier(written, token=token, embedding=learned.detach().cpu())
    keep(modifier, identity, options)
    return modifier


@contextmanager
def _meaning(encoder: TextEncoder, token: str, vectors: nn.Parameter) -> Iterator[None]:
    """Have the text encoder look a token's vectors up in a parameter; its own matrix is only read."""
    embedding: Any = encoder.model.get_input_embeddings()
    ids: Any = encoder.tokenizer.convert_tokens_to_ids(token_names(token, len(vectors)))

    def look_up(module: nn.Module, arguments: tuple[Tensor, ...], found: Tensor) -> Tensor:
        for number, one in enumerate(ids):
            found = torch.where((arguments[0] == one)[..., None], vectors[number].to(found.dtype), found)
        return found

    vectors.data = vectors.data.to(embedding.weight.device)
    hook = embedding.register_forward_hook(look_up)
    try:
        yield
    finally:
        hook.remove()


def _check_word(token: str, initializer: str, vectors: int) -> None:
    check_token(token)
    if not isinstance(initializer, str):
        raise TypeError(f"initializer is a word, such as 'painting'; got a {type(initializer).__name__}.")
    check_whole(vectors, name="vectors")
    if vectors > 1 and token != token.lower():
        raise ModifierError(
            f"a token of several vectors is written in small letters, since diffusers finds no more than the first of "
            f"{token!r}; take {token.lower()!r}."
        )


def _initial(encoder: TextEncoder, initializer: str, vectors: int) -> Float[Tensor, "n d"]:
    """A word's vector, so many times."""
    ids: Any = encoder.tokenizer(initializer).input_ids[1:-1]
    if len(ids) != 1:
        pieces = ", ".join(repr(piece) for piece in encoder.tokenizer.convert_ids_to_tokens(ids)) or "none"
        raise ModifierError(
            f"the initializer is a word of one token; {initializer!r} is {len(ids)}: {pieces}. Take a plain word such "
            "as 'painting' or 'photo'."
        )
    weight: Tensor = encoder.model.get_input_embeddings().weight  # pyright: ignore[reportAssignmentType]
    return weight.detach()[ids].repeat(vectors, 1)


def _texts(images: TrainingImages, words: CaptionModifier, called: list[str], token: str) -> list[list[str]]:
    """What each image may be called."""
    if images.captions is None:
        return [called] * len(images)
    written = words(images.captions)
    for number, text in enumerate(written):
        if token.lower() not in text.lower():
            raise CaptionError(
                f"the text of image {number}, {text!r}, lacks the token {token!r}; put it into the template, or into "
                "every caption."
            )
    return [[text] for text in written]
