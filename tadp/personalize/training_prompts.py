"""What training images are called while a token is learned: short neutral texts around it, drawn at random.

Source: the lists of textual inversion (Gal et al., arXiv:2208.01618), as TADP's released
model_personalization/textual_inversion_misc/textual_inversion_script.py has them: 27 texts for an object, 19 for a
style. Two texts are in the second list twice, and so are drawn twice as often.
"""

from collections.abc import Sequence
from typing import Literal, get_args

from tadp.errors import ModifierError
from tadp.files.checks import check_choice

Kind = Literal["style", "object"]
TOKEN = "{token}"

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


def style_template(token: str) -> str:
    """The modifier's template for a style.

    Source:
        TADP Sec. 4.3.

    Example:
        >>> style_template("<wash>")
        'a <wash> style painting of {caption}'
    """
    return f"a {token.replace('{', '{{').replace('}', '}}')} style painting of {{caption}}"


def texts_of(token: str, *, kind: Kind, texts: Sequence[str] | None = None) -> list[str]:
    """The texts around a token.

    Args:
        token: What stands in place of `{token}`.
        kind: Whose list, if no texts are given.
        texts: One's own, each with `{token}`.

    Raises:
        ModifierError: If there is no such kind, no text, or one has no place for the token.

    Example:
        >>> texts_of("<night>", kind="style", texts=["a dark {token} photo", "a {token} photo of a street"])
        ['a dark <night> photo', 'a <night> photo of a street']
        >>> len(texts_of("<toy>", kind="object")), len(texts_of("<oil>", kind="style"))
        (27, 19)
    """
    check_choice(kind, get_args(Kind), name="kind", error=ModifierError)
    chosen = list({"style": STYLE_TEXTS, "object": OBJECT_TEXTS}[kind] if texts is None else texts)
    if isinstance(texts, str) or not chosen:
        raise ModifierError("texts is a list of one text or more, each with {token}.")
    for text in chosen:
        if TOKEN not in text:
            raise ModifierError(f"each text has {{token}} where the token goes; got {text!r}.")
    return [text.replace(TOKEN, token) for text in chosen]
