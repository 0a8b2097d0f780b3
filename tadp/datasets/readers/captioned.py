"""The captions of a data set: one an image, by its id."""

from collections.abc import Mapping

from tadp.captions import CaptionTable
from tadp.errors import CaptionError, UnknownIdError

Captions = Mapping[str, str]


def check_captions(captions: Captions, image_ids: list[str], name: str) -> None:
    """Refuse captions that lack one of the images, or are none.

    Raises:
        TypeError: If they are no mapping.
        UnknownIdError: If an image has none; the message says what the ids of the table look like.
        CaptionError: If the first is no string.
    """
    if not isinstance(captions, Mapping):
        raise TypeError(
            "captions are a CaptionTable, or a mapping from image id to caption; got a "
            f"{type(captions).__name__}. A file is read by CaptionTable.open(path)."
        )
    if isinstance(captions, CaptionTable):
        missing = captions.missing(image_ids)
    else:
        missing = [image_id for image_id in image_ids if image_id not in captions]
    if missing:
        table = repr(captions) if isinstance(captions, CaptionTable) else f"a mapping of {len(captions)} captions"
        more = f", nor of {len(missing) - 1} more of its {len(image_ids)} images" if len(missing) > 1 else ""
        example = next(iter(captions), None)
        hint = "It is empty." if example is None else f"Its ids look like {example!r}."
        raise UnknownIdError(
            f"{name}: {table} has no caption of {missing[0]!r}{more}. {hint} To caption what is missing, build the "
            "data set without captions: table.fill(data.image_paths, captioner)."
        )
    if image_ids:
        caption_of(captions, image_ids[0])


def caption_of(captions: Captions, image_id: str) -> str:
    """The caption of one image.

    Raises:
        CaptionError: If it is no string.
    """
    caption = captions[image_id]
    if not isinstance(caption, str):
        raise CaptionError(
            f"a caption is a string; that of {image_id!r} is a {type(caption).__name__}. The authors' caption files "
            "are read by CaptionTable.from_json(path)."
        )
    return caption
