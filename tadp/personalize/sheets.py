"""Sheets of samples: what the model draws at a step, a row for each text, each column from the same noise."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from tadp.files import replace_file
from tadp.personalize.sampling import Sampler

COLUMNS = 4
_GAP_PX, _LINE_PX, _TEXT_PX = 8, 24, 14
_INK, _FAINT = (31, 35, 40), (110, 118, 129)


class SampleSheets:
    """Writes FOLDER/step-00000100.png and so on; the noise is the same on each, so that sheets can be compared.

    Args:
        folder: Where they go.
        sampler: Draws them.
        texts: A row each.
        seed: Of the noise.
        side_px: Of a sample.
    """

    def __init__(self, folder: Path, sampler: Sampler, *, texts: Sequence[str], seed: int, side_px: int):
        self._folder, self._sampler = folder, sampler
        self._texts, self._seed, self._side_px = list(texts), seed, side_px

    def write(self, step: int) -> None:
        """Draw and write the sheet of a step.

        Raises:
            OutputError: If it cannot be written.
        """
        keys = [(self._seed, column) for column in range(COLUMNS)]
        rows = [(text, self._sampler.draw([text] * COLUMNS, keys=keys, side_px=self._side_px)) for text in self._texts]
        with replace_file(self._folder / f"step-{step:08}.png") as part:
            sheet(rows, title=f"step {step}").save(part, format="PNG")


def sheet(rows: Sequence[tuple[str, Sequence[Image.Image]]], *, title: str) -> Image.Image:
    """Images in rows, each row under its text.

    Args:
        rows: A text and its images, all of one size.
        title: Above all.
    """
    width, height = rows[0][1][0].size
    columns = max(len(images) for _, images in rows)
    row_px = _LINE_PX + height + _GAP_PX
    size = (columns * (width + _GAP_PX) + _GAP_PX, _LINE_PX + len(rows) * row_px + _GAP_PX)
    picture = Image.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(_TEXT_PX)
    pen.text((_GAP_PX, _GAP_PX // 2), title, fill=_FAINT, font=font)
    for number, (text, images) in enumerate(rows):
        top = _LINE_PX + number * row_px
        pen.text((_GAP_PX, top + _GAP_PX // 2), text, fill=_INK, font=font)
        for column, image in enumerate(images):
            picture.paste(image, (_GAP_PX + column * (width + _GAP_PX), top + _LINE_PX))
    return picture
