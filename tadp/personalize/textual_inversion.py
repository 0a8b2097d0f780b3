"""Textual inversion: learn only the vectors of a new word, from a few images."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tadp.errors import CaptionError, ModifierError
from tadp.files.checks import check_choice, check_whole
from tadp.files.hub import HubOptions
from tadp.files.run_lock import one_run_per_output
from tadp.modifiers import CaptionModifier
from tadp.modifiers.caption_templates import style_template
from tadp.personalize.loop import train
from tadp.personalize.run_folder import RunFolder, identity_of
from tadp.personalize.run_options import TOKEN_DEFAULTS, RunOptions, SettledOptions
from tadp.personalize.trained_model import load_diffusion
from tadp.personalize.training_images import Captions, Concept, Images, TrainingImages, read_images
from tadp.text.encoder import TextEncoder
from tadp.text.learned_tokens import add_token, check_token, token_names

Kind = Literal["style", "object"]
TOKEN = "{token}"

# Training texts, drawn at random while a token is learned: the lists of textual inversion (Gal et al.,
# arXiv:2208.01618), as in TADP's released model_personalization/textual_inversion_misc/textual_inversion_script.py.
# Two texts are in the second list twice, so they are drawn twice as often.
OBJECT_TEXTS: tuple[str, ...] = (
    "a photo of a {token}",
    "a rendering of a {token}",
    "a cropped photo of the {token}",
    "the photo of a {token}",
    "a photo of a clean {token}",
    "a photo of a dirty {token}",
    "a dark photo of the {token}",
    "a photo of my {token}",
    "a photo of the cool {token}",
    "a close-up photo of a {token}",
    "a bright photo of the {token}",
    "a cropped photo of a {token}",
    "a photo of the {token}",
    "a good photo of the {token}",
    "a photo of one {token}",
    "a close-up photo of the {token}",
    "a rendition of the {token}",
    "a photo of the clean {token}",
    "a rendition of a {token}",
    "a photo of a nice {token}",
    "a good photo of a {token}",
    "a photo of the nice {token}",
    "a photo of the small {token}",
    "a photo of the weird {token}",
    "a photo of the large {token}",
    "a photo of a cool {token}",
    "a photo of a small {token}",
)
STYLE_TEXTS: tuple[str, ...] = (
    "a painting in the style of {token}",
    "a rendering in the style of {token}",
    "a cropped painting in the style of {token}",
    "the painting in the style of {token}",
    "a clean painting in the style of {token}",
    "a dirty painting in the style of {token}",
    "a dark painting in the style of {token}",
    "a picture in the style of {token}",
    "a cool painting in the style of {token}",
    "a close-up painting in the style of {token}",
    "a bright painting in the style of {token}",
    "a cropped painting in the style of {token}",
    "a good painting in the style of {token}",
    "a close-up painting in the style of {token}",
    "a rendition in the style of {token}",
    "a nice painting in the style of {token}",
    "a small painting in the style of {token}",
    "a weird painting in the style of {token}",
    "a large painting in the style of {token}",
)


def texts_of(token: str, *, kind: Kind, texts: Sequence[str] | None = None) -> list[str]:
    """Return the texts of the training images while a token is learned.

    Args:
        token: The word that replaces `{token}` in the texts.
        kind: The kind of concept, "style" or "object", which determines the texts if none are passed.
        texts: Texts to use, each with `{token}`; None uses the sentences of the
            paper on textual inversion.

    Raises:
        ModifierError: If `kind` is unknown, `texts` is empty, or a text has no `{token}`.

    Example:
        >>> texts_of("<night>", kind="style", texts=["a dark {token} photo", "a {token} photo of a street"])
        ['a dark <night> photo', 'a <night> photo of a street']
        >>> len(texts_of("<toy>", kind="object")), len(texts_of("<oil>", kind="style"))
        (27, 19)
    """
    check_choice(kind, get_args(Kind), name="kind", error=ModifierError)
    chosen = list({"style": STYLE_TEXTS, "object": OBJECT_TEXTS}[kind] if texts is None else texts)
    if isinstance(texts, str) or not chosen:
        raise ModifierError("texts must be a list of one or more texts, each with {token}.")
    for text in chosen:
        if TOKEN not in text:
            raise ModifierError(f"each text must have {{token}} where the token goes; got {text!r}.")
    return [text.replace(TOKEN, token) for text in chosen]


@one_run_per_output
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
    output: str | Path | None = None,
    options: RunOptions | None = None,
    hub: HubOptions | None = None,
) -> CaptionModifier:
    """Learn a new word for the style or object that a few images share, by textual inversion.

    Only the vectors of the new word are trained. The U-Net, the VAE and the text encoder, with all the words it knows,
    do not change. The loss is the denoising loss with which the model was trained: the error of predicting the noise or
    the velocity, depending on its scheduler.

    With `output`, the folder gets the modifier (learned_embeds.safetensors, which diffusers reads, and modifier.json),
    training.json, samples/, and checkpoint.safetensors. If a run is killed, the same call continues from the checkpoint
    and ends with the same token as an uninterrupted run. If the run is finished, the same call returns at once, and a
    call with more steps does the remaining steps. On a GPU, equal runs may differ in their last bits.

    Args:
        model: The model that learns the word: "tadp-tiny", a folder in diffusers layout, or a hub id.
        images: Five to twenty images: a folder, a pattern, a list of paths, PIL images, arrays or tensors, or a batch.
        token: The new word, such as "<watercolor>". It must not be in the tokenizer's vocabulary, and must be lower
            case if it has several vectors.
        initializer: A word of one token, such as "painting", whose vector is the new word's initial vector.
        vectors: Number of vectors of the new word.
        kind: The kind of concept that the images share: "style" or "object". It determines the defaults of `texts` and
            `template`.
        template: Template of the returned modifier. None is the paper's "a <token> style painting of {caption}" for a
            style; for an object it is "{caption}", and captions contain the token themselves.
        texts: Training texts of the images, each with `{token}`; one of them is drawn at random each time. None uses
            the lists of textual inversion.
        captions: Captions of the images: a list in the same order, or a mapping from image id to caption with the ids
            of `tadp caption` (the file name without suffix, with its folder if two images have the same name). With
            captions, the training text of an image is the template with its caption, and `texts` are not used. None
            trains without captions.
        output: Folder for the result, samples and the checkpoint; None writes nothing to disk.
        options: Steps, learning rate, seed, device and the other options of the run; None is all defaults. The vectors
            are float32, whatever the `dtype` of the model.
        hub: Revision and download options of a model on the hub; None is `HubOptions()`.

    Returns:
        A modifier with the token and its vectors.

    Raises:
        ModifierError: If the token is invalid or already in the vocabulary, `initializer` is not one token, the loss is
            not finite, or the checkpoint belongs to another run.
        ImageError: If no images are found, or some cannot be read. The message names all of these, before training.
        CaptionError: If a text is too long, or the number of captions is not that of the images.
        ModelError: If the model is not available or lacks a part.
        OutputError: If a file cannot be written. The last checkpoint is kept.
        TypeError: If an argument has the wrong type.
        ValueError: If a number is out of its range.

    Source:
        Gal et al. 2023; TADP Sec. 4.3. Steps, batch size, learning rate and weight decay are the defaults of the
        paper's released textual_inversion_script.py, which textual_inversion_pascal.sh does not change. Its schedule is
        "constant", which has no warm-up. The script squeezes images into a square; here they are cropped.

    Example:
        >>> from tadp.datasets.scenes import Scenes
        >>> images = [Scenes(1, seed=0, style="watercolor")[0].image]
        >>> quick = RunOptions(steps=1, batch_size=1, progress=False)
        >>> modifier = learn_token("tadp-tiny", images, token="<wash>", initializer="painting", options=quick)
        >>> modifier("a dog")
        ['a <wash> style painting of a dog']
    """
    settled = SettledOptions.of(options, TOKEN_DEFAULTS)
    output = None if output is None else Path(output)
    vectors = check_whole(vectors, name="vectors")
    _check_word(token, initializer, vectors)
    called = texts_of(token, kind=kind, texts=texts)
    usual = "{caption}" if kind == "object" else style_template(token)
    words = CaptionModifier(usual if template is None else template, token=token)
    prompts = settled.sample_prompts or ([f"a photo of a {token}"] if kind == "object" else words(""))
    loaded = load_diffusion(model, dtype=settled.dtype, device=settled.device, hub=hub)
    start = _initial(loaded.text_encoder, initializer, vectors)
    add_token(loaded.text_encoder, token, start)
    read = read_images(
        images,
        side_px=settled.side_px or loaded.side_px,
        captions=captions,
        skip_unreadable=settled.skip_unreadable,
        output=output,
        flip=settled.flip,
        random_crop=settled.random_crop,
    )
    concept = Concept(read, _texts(read, words, called, token))
    loaded.text_encoder.check_fit([text for texts in (*concept.texts, prompts) for text in texts])
    own = {"kind": "token", "token": token, "initializer": initializer, "vectors": vectors, "max_grad_norm": None}
    folder = RunFolder(output, identity=identity_of(loaded, [concept], settled, **own), resume=settled.resume)
    if settled.gradient_checkpointing:
        loaded.backbone.enable_gradient_checkpointing()
    learned = nn.Parameter(start.float().clone())
    with _embed_with(loaded.text_encoder, token, learned):
        train(
            loaded,
            [concept],
            trained={"vectors": learned},
            options=settled,
            folder=folder,
            sample_prompts=prompts,
            description=f"learning {token}",
        )
    modifier = CaptionModifier(words.templates[0], token=token, embedding=learned.detach().cpu())
    folder.finish(modifier, steps=settled.steps)
    return modifier


@contextmanager
def _embed_with(encoder: TextEncoder, token: str, vectors: nn.Parameter) -> Iterator[None]:
    """Make the text encoder take a token's vectors from a parameter. Its own embedding matrix is only read."""
    embedding: Any = encoder.model.get_input_embeddings()
    ids: Any = encoder.tokenizer.convert_tokens_to_ids(token_names(token, len(vectors)))

    def look_up(module: nn.Module, arguments: tuple[Tensor, ...], embedded: Tensor) -> Tensor:
        for number, row in enumerate(ids):
            embedded = torch.where((arguments[0] == row)[..., None], vectors[number].to(embedded.dtype), embedded)
        return embedded

    vectors.data = vectors.data.to(embedding.weight.device)
    hook = embedding.register_forward_hook(look_up)
    try:
        yield
    finally:
        hook.remove()


def _check_word(token: str, initializer: str, vectors: int) -> None:
    check_token(token)
    if not isinstance(initializer, str):
        raise TypeError(f"initializer must be a word, such as 'painting'; got {type(initializer).__name__}.")
    if vectors > 1 and token != token.lower():
        raise ModifierError(
            f"a token with several vectors must be lower case, because diffusers finds only the first vector of "
            f"{token!r}; use {token.lower()!r}."
        )


def _initial(encoder: TextEncoder, initializer: str, vectors: int) -> Float[Tensor, "n d"]:
    """The vector of a word, repeated."""
    ids: Any = encoder.tokenizer(initializer).input_ids[1:-1]
    if len(ids) != 1:
        pieces = ", ".join(repr(piece) for piece in encoder.tokenizer.convert_ids_to_tokens(ids)) or "none"
        raise ModifierError(
            f"the initializer must be a word of one token; {initializer!r} is {len(ids)}: {pieces}. Use a plain word, "
            "such as 'painting' or 'photo'."
        )
    weight: Tensor = encoder.model.get_input_embeddings().weight  # pyright: ignore[reportAssignmentType]
    return weight.detach()[ids].repeat(vectors, 1)


def _texts(images: TrainingImages, words: CaptionModifier, called: list[str], token: str) -> list[list[str]]:
    """The training texts of each image."""
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
