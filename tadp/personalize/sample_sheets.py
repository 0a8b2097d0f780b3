"""Sheets of samples: what the model draws at a step, a row for each text, each column from the same noise."""

from collections.abc import Sequence
from pathlib import Path

from tadp.drawing import sheet
from tadp.files.atomic import replace_file
from tadp.personalize.sampling import Sampler

COLUMNS = 4


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
        rows = [self._sampler.draw([text] * COLUMNS, keys=keys, side_px=self._side_px) for text in self._texts]
        with replace_file(self._folder / f"step-{step:08}.png") as part:
            sheet(rows, labels=self._texts, title=f"step {step}").save(part, format="PNG")
