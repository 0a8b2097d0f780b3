"""The text of modifiers: the paper's templates, and how a caption is fitted into a template."""

import re
import string
from typing import Literal

from tadp.errors import ModifierError
from tadp.language.grammar import article_for, has_determiner, lower_first, takes_article, without_bullet

PaperDomain = Literal["watercolor", "comic", "night"]
Kind = Literal["null", "simple", "nearby", "unrelated", "textual_inversion", "dreambooth"]

# The paper's templates, without the article that the released code puts before every caption ("of a a dog"). Dark
# Zurich and Nighttime Driving share the templates of "night". For DreamBooth at night, the paper says "the same
# template as in textual inversion"; ours is the one that the code uses, and the only one without the code's article.
TEMPLATES: dict[str, dict[str, str]] = {
    "watercolor": {
        "null": "{caption}",
        "simple": "a watercolor painting of {caption}",
        "nearby": "a constructivism painting of {caption}",
        "unrelated": "a dashcam photo of {caption}",
        "textual_inversion": "a TOKEN style painting of {caption}",
        "dreambooth": "a TOKEN style painting of {caption}",
    },
    "comic": {
        "null": "{caption}",
        "simple": "a comic style painting of {caption}",
        "nearby": "a constructivism painting of {caption}",
        "unrelated": "a dashcam photo of {caption}",
        "textual_inversion": "a TOKEN style painting of {caption}",
        "dreambooth": "a TOKEN style painting of {caption}",
    },
    "night": {
        "null": "{caption}",
        "simple": "a dark night photo of {caption}",
        "nearby": "a foggy photo of {caption}",
        "unrelated": "a watercolor painting of {caption}",
        "textual_inversion": "a dark TOKEN photo of {caption}",
        "dreambooth": "a dashcam photo of {caption} at TOKEN night",
    },
}
DREAMBOOTH_WORD = "sks"  # a token of CLIP's vocabulary that hardly any text contains
_LONGEST = 2000  # characters of a template
_NO_ARTICLE = ("night", "dreambooth")


def paper_template(domain: str, kind: str, *, token: str, literal: bool) -> str:
    """Return the template of one of the paper's modifiers.

    Args:
        domain: The target domain, a key of `TEMPLATES`.
        kind: One of the paper's six kinds of modifier.
        token: The word for the learned concept, which replaces the placeholder in templates that have one.
        literal: Whether "a " comes before the caption in those templates that have it in the paper's released code. If
            False, no template has it.

    Raises:
        ModifierError: If `domain` or `kind` is unknown.
    """
    if domain not in TEMPLATES:
        raise ModifierError(
            f"unknown domain {domain!r}; the paper has {', '.join(TEMPLATES)}. For another one, describe it in words: "
            "CaptionModifier('a rainy photo of {caption}'), or CaptionModifier.style('watercolor') for a style."
        )
    if kind not in TEMPLATES[domain]:
        raise ModifierError(f"unknown modifier {kind!r}; the paper has {', '.join(TEMPLATES[domain])}.")
    template = TEMPLATES[domain][kind]
    if literal and kind != "null" and (domain, kind) != _NO_ARTICLE:
        template = template.replace("{caption}", "a {caption}")
    return _with_token(template, token)


def style_template(token: str) -> str:
    """The paper's template for a learned style, with the token of the style.

    Source:
        TADP Sec. 4.3.

    Example:
        >>> style_template("<wash>")
        'a <wash> style painting of {caption}'
    """
    return _with_token(TEMPLATES["watercolor"]["textual_inversion"], token)


def _with_token(template: str, token: str) -> str:
    return template.replace("TOKEN", token.replace("{", "{{").replace("}", "}}"))


def check_template(template: str) -> None:
    """Check that a template has the placeholder `{caption}` and no other.

    Raises:
        TypeError: If `template` is not a string.
        ModifierError: If `template` has no `{caption}`, has an unknown placeholder, or has an unmatched brace.
    """
    if not isinstance(template, str):
        raise TypeError(f"a template must be a string; got {type(template).__name__}.")
    if len(template) > _LONGEST:
        raise ModifierError(f"a template must have at most {_LONGEST} characters; got {len(template)}. Shorten it.")
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ModifierError(
            f"the template {template!r} has an unmatched brace ({error}); double it to write a literal brace."
        ) from error
    fields = [part[1:] for part in parts if part[1] is not None]
    for name, form, conversion in fields:
        if name != "caption" or form or conversion:
            raise ModifierError(
                f"the template {template!r} has a placeholder other than {{caption}}, {name!r}; double its braces to "
                "write literal braces."
            )
    if not fields:
        raise ModifierError(f"a template must have {{caption}} where the caption goes; got {template!r}.")


def fill_literally(template: str, caption: str) -> str:
    """The template with the caption inserted unchanged."""
    return template.format(caption=caption)


def fill_grammatically(template: str, caption: str) -> str:
    """The template with the caption fitted in grammatically; see `CaptionModifier`."""
    if template == "{caption}":
        return caption
    caption = " ".join(without_bullet(caption).split())
    parts = [(text, name is not None) for text, name, _, _ in string.Formatter().parse(template)]
    written = ""
    for number, (text, is_place) in enumerate(parts):
        written += text
        if not is_place:
            continue
        if not caption:
            written = re.sub(r"(?:\s*\b(?:of|with|showing|depicting))?(?:\s+an?)?\s*$", "", written)
            continue
        followed = any(rest.strip() or again for rest, again in parts[number + 1 :])
        inner = caption.rstrip(".") if followed else caption
        written = _fit_article(written, inner) + (lower_first(inner) if written.strip() else inner)
    return " ".join(written.split()) if not caption else written


def _fit_article(before: str, caption: str) -> str:
    """Fit the template's article to the caption: remove it if the caption takes none, or write "an" where needed."""
    article = re.search(r"(?<!\S)(an?|the)\s+$", before, re.IGNORECASE)
    if not article:
        return before
    if article[1].lower() == "the":
        return before[: article.start()] if has_determiner(caption) else before
    return (
        f"{before[: article.start()]}{article_for(caption)} " if takes_article(caption) else before[: article.start()]
    )
