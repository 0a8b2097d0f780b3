"""The text of a `with backbone.conditioning(text)` block, for frameworks that pass images alone."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from tadp.text import Conditioning

Text = str | Sequence[str] | Conditioning
# By id of the backbone. A context variable, so that each thread has its own.
_TEXTS: ContextVar[Mapping[int, Text]] = ContextVar("tadp_conditioning", default={})  # noqa: B039  never changed in place


def current_text(backbone: object) -> Text:
    """What a backbone is told outside of its arguments; the empty prompt outside of any block."""
    return _TEXTS.get().get(id(backbone), "")


@contextmanager
def use_text(backbone: object, text: Text) -> Iterator[None]:
    """Within the block, `current_text(backbone)` is this text."""
    reset = _TEXTS.set({**_TEXTS.get(), id(backbone): text})
    try:
        yield
    finally:
        _TEXTS.reset(reset)
