"""Prompts that are embeddings: class names, each encoded separately, and averaged end tokens."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from tadp.backbone import TADPBackbone
from tadp.errors import ModelError
from tadp.features import Word
from tadp.files.checks import check_classes
from tadp.language.matching import readable
from tadp.prompts.name_templates import CLIP_TEMPLATES
from tadp.prompts.text_cache import cache_key, cached
from tadp.text.conditioning import Conditioning
from tadp.text.encoder import TextEncoder
from tadp.text.stack import only_encoder

BATCH = 256  # prompts encoded at a time
NAMES = 64  # names encoded at a time, each padded to 77 tokens


@torch.no_grad()
def class_embeddings(classes: Sequence[str], encoder: TextEncoder | TADPBackbone) -> Conditioning:
    """Encode each class name separately, and concatenate the embeddings of their tokens, one class after the other.

    Unlike a prompt, the result has no start token, end token or padding, and no limit of 77 tokens. The paper's
    released code (under the name "class_names") keeps one start token, before the first class. The paper itself keeps
    "the tokens corresponding to the actual word", and we follow the paper.

    Args:
        classes: The class names. Each "_" becomes a space.
        encoder: A text encoder, or a backbone that has one.

    Returns:
        One text for all images, (1, L, D), where L is the number of tokens of all names. Its `tokens` are the tokens of
        the names, and its `words` are the names.

    Raises:
        ValueError: If `classes` is empty, or a name is empty or occurs twice.
        TypeError: If a class name is not a string.
        CaptionError: If a single class name has more tokens than the text encoder takes.

    Source:
        TADP Eq. 2.

    Example:
        >>> import tadp
        >>> text = class_embeddings(["dog", "red car"], tadp.TADPBackbone.from_pretrained("tadp-tiny"))
        >>> text.tokens[0], [(word.text, word.start, word.stop) for word in text.words[0]]
        (('dog', 'red', 'car'), [('dog', 0, 1), ('red car', 1, 3)])
    """
    classes = check_classes(classes)
    names, text_encoder = [readable(name) for name in classes], _text_encoder(encoder)
    text_encoder.check_fit(names)
    words: list[Word] = []
    tokens: list[str] = []
    pieces: list[Tensor] = []
    for start in range(0, len(names), NAMES):
        encoded = text_encoder(names[start : start + NAMES], mask_padding=True)
        if encoded.tokens is None or encoded.mask is None:
            raise ModelError("this text encoder names no tokens; pass a tadp.text.encoder.TextEncoder.")
        own = encoded.mask.clone()
        own[:, 0] = False  # the start token
        counts = encoded.mask.sum(dim=1) - 2
        own[torch.arange(len(own)), counts + 1] = False  # the end token
        pieces.append(encoded.embeddings[own])  # a copy, so that the batch can be freed
        for name, count, own_tokens in zip(classes[start:], counts.tolist(), encoded.tokens, strict=False):
            words.append(Word(name, len(tokens), len(tokens) + count, stands_apart=True))
            tokens += own_tokens[1 : count + 1]
    return Conditioning(torch.cat(pieces)[None], (tuple(tokens),), (tuple(words),))


@torch.no_grad()
def averaged_eos(
    classes: Sequence[str],
    encoder: TextEncoder | TADPBackbone,
    *,
    templates: Sequence[str] = CLIP_TEMPLATES,
    cache_dir: str | Path | None = None,
    progress: bool = False,
) -> Conditioning:
    """Compute one embedding per class: that of the end token, averaged over sentences about the class.

    The file `class_embeddings.pth` of VPD and of the paper's released code contains the same: CLIP's last hidden state
    after its final norm, neither projected nor normalised. Their scripts cut sentences at 20 tokens; here they are not
    cut.

    The embeddings are computed once for an encoder, class names and templates, and stored in a safetensors file. If any
    of these changes, including the encoder's weights, they are computed again and stored in another file.

    Args:
        classes: The class names. Each "_" becomes a space.
        encoder: A text encoder, or a backbone that has one.
        templates: Sentences with one `{}` each, which the class name replaces; CLIP's 80 templates by default.
        cache_dir: Folder for the files; None is huggingface_hub's folder for files of other libraries, which the
            environment variables `HF_HOME` and `HF_ASSETS_CACHE` can change.
        progress: Whether to show a progress bar.

    Returns:
        One text for all images, (1, K, D) for K classes. Its `tokens` and `words` are the class names.

    Raises:
        ValueError: If `classes` is empty, a name is empty or occurs twice, or a template does not have one `{}`.
        TypeError: If a class name is not a string.
        CaptionError: If a template with a class name has more tokens than the text encoder takes.

    Source:
        TADP Sec. 3, "Average EOS Tokens"; VPD's script that writes `class_embeddings.pth`.

    Example:
        >>> import tadp, tempfile
        >>> backbone = tadp.TADPBackbone.from_pretrained("tadp-tiny", text_length=2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     text = averaged_eos(["dog", "pine tree"], backbone, cache_dir=folder)
        >>> text.embeddings.shape[:2], text.tokens
        (torch.Size([1, 2]), (('dog', 'pine tree'),))
    """
    classes, templates = check_classes(classes), _checked_templates(templates)
    text_encoder = _text_encoder(encoder)
    names = [readable(name) for name in classes]
    embeddings = cached(
        lambda: _average(text_encoder, names, templates, progress),
        key=cache_key(text_encoder, names, templates),
        shape=(len(names), text_encoder.width),
        cache_dir=cache_dir,
    )
    words = tuple(Word(name, number, number + 1, stands_apart=True) for number, name in enumerate(classes))
    return Conditioning(embeddings.to(text_encoder.model.device)[None], (tuple(classes),), (words,))


def _average(
    encoder: TextEncoder, names: Sequence[str], templates: Sequence[str], progress: bool
) -> Float[Tensor, "k d"]:
    texts = [template.replace("{}", name) for name in names for template in templates]
    starts = tqdm(range(0, len(texts), BATCH), desc="encoding classes", disable=not progress)
    ends = torch.cat([encoder.end_embeddings(texts[start : start + BATCH]) for start in starts])
    return ends.unflatten(0, (len(names), -1)).mean(dim=1, dtype=torch.float32).to(ends.dtype)


def _text_encoder(encoder: TextEncoder | TADPBackbone) -> TextEncoder:
    if encoder is None or isinstance(encoder, str | int):
        raise TypeError(f"a backbone or its text_encoder is needed; got {encoder!r}. Load it with from_pretrained.")
    text_encoder = encoder if isinstance(encoder, TextEncoder) else encoder.text_encoder
    if text_encoder is None:
        raise ModelError("this backbone has no text encoder; pass one, or load a backbone with one.")
    return only_encoder(text_encoder)


def _checked_templates(templates: Sequence[str]) -> list[str]:
    if isinstance(templates, str):
        raise TypeError(f"templates must be a list of strings; got the string {templates!r}. Pass [{templates!r}].")
    if not templates:
        raise ValueError("no templates; leave the argument out for CLIP's 80.")
    for number, template in enumerate(templates):
        if not isinstance(template, str):
            raise TypeError(f"a template must be a string; template {number} is of type {type(template).__name__}.")
        if template.count("{}") != 1:
            raise ValueError(
                f"a template must have one {{}} in the place of the class name; template {number} is {template!r}."
            )
    return list(templates)
