"""What every cleaner is: captions in, as many out, and a report of what became of each."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from tadp.cleaning.domains import Domain
from tadp.cleaning.report import CleaningReport, warn_of_failures


class Cleaner(ABC):
    """Drops what captions say of a domain."""

    domain: Domain

    def __call__(self, captions: str | Sequence[str], *, progress: bool = False) -> list[str]:
        """The captions, cleaned, one for each. Warns of those that stayed as they were; raises as `clean`."""
        report = self.clean(captions, progress=progress)
        warn_of_failures(report)
        return list(report.after)

    @abstractmethod
    def clean(self, captions: str | Sequence[str], *, progress: bool = False) -> CleaningReport:
        """The captions before and after, and what could not be cleaned.

        Args:
            captions: One or several; the same caption is cleaned once.
            progress: Show a progress bar.

        Raises:
            TypeError: If a caption is not a string.
            CleaningInterrupted: On Ctrl-C; its `report` has what was cleaned until then.
        """
