"""The text of a backbone that is called with images alone: that of a `with backbone.conditioning(text)` block.

Each thread has its own blocks. Two things of PyTorch run a backbone in threads of their own: `nn.DataParallel`, whose
replicas take their part of the block's text when they are made; and gradient checkpointing, which calls the backbone
again during backward and takes the text of the one block that is open.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch

from tadp.errors import CaptionError
from tadp.text.conditioning import Conditioning

Text = str | Sequence[str] | Conditioning


class TextKey:
    """Who a text is for: a backbone and its replicas have one, a copy of it has another.

    Attributes:
        open: The blocks that are open now, in any thread.
        was_opened: Whether there was a block.
    """

    def __init__(self) -> None:
        self.open: list[_Block] = []
        self.was_opened = False

    def __deepcopy__(self, _memo: object) -> "TextKey":
        return TextKey()

    def __reduce__(self) -> tuple[type["TextKey"], tuple[()]]:
        return TextKey, ()


@dataclass(eq=False)
class _Group:
    """The replicas of one pass of DataParallel."""

    count: int = 0
    has_started: bool = False


@dataclass(eq=False)
class _Block:
    text: Text
    group: _Group = field(default_factory=_Group)


@dataclass(frozen=True, eq=False)
class Share:
    """What a replica needs to know to take its part of a text."""

    text: Text
    number: int
    group: _Group

    def of(self, batch: int) -> Text:
        """The texts of this replica's images.

        Raises:
            CaptionError: If the texts do not split as the images did.
        """
        self.group.has_started = True
        if isinstance(self.text, str) or (isinstance(self.text, Conditioning) and len(self.text) == 1):
            return self.text
        parts = torch.arange(len(self.text)).chunk(self.group.count)  # as DataParallel splits images
        part = parts[self.number].tolist() if self.number < len(parts) else []
        if len(part) != batch:
            raise CaptionError(
                f"{len(self.text)} captions split over {self.group.count} replicas give replica {self.number} "
                f"{len(part)} of them for its {batch} images; give one an image, or a single string for all."
            )
        return text_rows(self.text, part[0], part[-1] + 1)


_BLOCKS: ContextVar[Mapping[TextKey, _Block]] = ContextVar("tadp_conditioning", default={})  # noqa: B039  never changed


@contextmanager
def use_text(key: TextKey, text: Text) -> Iterator[None]:
    """Within the block, `current_text(key)` is this text.

    Raises:
        CaptionError: If there is no text.
    """
    if text is None or (isinstance(text, Sequence | Conditioning) and not isinstance(text, str) and not len(text)):
        raise CaptionError(
            f"a context needs captions: one an image, or a single string for all; got {text!r}. The empty prompt is ''."
        )
    block = _Block(text)
    reset = _BLOCKS.set({**_BLOCKS.get(), key: block})
    key.was_opened = True
    key.open.append(block)
    try:
        yield
    finally:
        key.open.remove(block)
        _BLOCKS.reset(reset)


def current_text(key: TextKey) -> Text | None:
    """The text of this thread's block; None outside of any.

    Raises:
        CaptionError: If it was asked for during backward, after its block.
    """
    block = _BLOCKS.get().get(key)
    if block is not None:
        return block.text
    if not key.was_opened or not _is_backward():
        return None
    if len(key.open) == 1:  # on a GPU, backward has a thread of its own
        return key.open[0].text
    raise CaptionError(
        "gradient checkpointing calls backbone(images) again during backward, when its captions are gone: "
        f"{len(key.open)} blocks of conditioning() are open. Call loss.backward() within the one block, or checkpoint "
        "inside the backbone instead: backbone.enable_gradient_checkpointing()."
    )


def share_text(key: TextKey) -> Share | None:
    """What one more replica of a backbone gets of the text of this thread's block; None outside of any."""
    block = _BLOCKS.get().get(key)
    if block is None:
        return None
    if block.group.has_started:  # those of the pass before
        block.group = _Group()
    block.group.count += 1
    return Share(block.text, block.group.count - 1, block.group)


def _is_backward() -> bool:
    return torch._C._current_graph_task_id() != -1  # what torch.utils.checkpoint asks, too


def text_rows(text: Sequence[str] | Conditioning, start: int, stop: int) -> Sequence[str] | Conditioning:
    """Some of several texts."""
    return text.take(range(start, stop)) if isinstance(text, Conditioning) else text[start:stop]
