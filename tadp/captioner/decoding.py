"""How a captioner chooses its words: limits, beams or seeded sampling, and a second try."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from tadp.errors import Argument, OptionError

NUCLEUS = 0.9  # share of probability that is drawn from, as BLIP samples captions (Li et al. 2022, Sec. 4.3)
# On the second try no three tokens in a row come twice, so that hardly a loop is left to fall into. A repetition
# penalty would weigh on the end token too, which in chat models stands in the prompt.
NO_REPEAT = 3
FEWEST_TOKENS = 5  # tokens that a captioner which said nothing is held to on the second try


@dataclass(frozen=True)
class Decoding:
    """What decides a caption besides the model and the image.

    Attributes:
        min_new_tokens: The fewest tokens of a caption.
        max_new_tokens: The most.
        num_beams: Width of the beam search; 1 is greedy.
        temperature: 0 takes the likeliest; above, words are drawn, the more freely the higher.
        seed: Of the drawing.
        prompt: Text that the model continues or answers.
        retry: Try once again where a caption is empty or a loop.

    Raises:
        ValueError: If a number is out of range, or beams and sampling are asked for at once.
    """

    min_new_tokens: int = 0
    max_new_tokens: int = 77
    num_beams: int = 1
    temperature: float = 0.0
    seed: int = 0
    prompt: str | None = None
    retry: bool = True

    def __post_init__(self) -> None:
        for what, number in (("max_new_tokens", self.max_new_tokens), ("num_beams", self.num_beams)):
            if number < 1:
                raise OptionError(Argument(what), f" must be 1 or more; got {number}.")
        if not 0 <= self.min_new_tokens <= self.max_new_tokens:
            raise OptionError(
                Argument("min_new_tokens"),
                " must be 0 or more and at most ",
                Argument("max_new_tokens"),
                f" ({self.max_new_tokens}); got {self.min_new_tokens}.",
            )
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature must be 0 or a number above; got {self.temperature}.")
        if not isinstance(self.prompt, str | None):
            raise TypeError(f"prompt is one text for all images; got a {type(self.prompt).__name__}.")
        if self.temperature > 0 and self.num_beams > 1:
            raise OptionError(
                f"sampling draws one caption, beams search among {self.num_beams}; got temperature {self.temperature} "
                "too. Pass ",
                Argument("num_beams", 1),
                " or temperature=0.",
            )

    def arguments(self, images: list[Image.Image], *, again: bool = False) -> dict[str, Any]:
        """What `generate` of transformers is called with.

        Args:
            images: Those of the batch; a drawing is seeded by `seed` and the image, so that it does not depend on the
                batch an image comes in.
            again: For the second try.
        """
        fewest = max(self.min_new_tokens, min(FEWEST_TOKENS, self.max_new_tokens)) if again else self.min_new_tokens
        arguments: dict[str, Any] = {
            "do_sample": False,  # drawing is one of the logits processors below
            "num_beams": self.num_beams,
            "max_new_tokens": self.max_new_tokens,  # always: BLIP does not read its saved generation config
            "min_new_tokens": fewest or None,
        }
        if again:
            arguments["no_repeat_ngram_size"] = NO_REPEAT
        if self.temperature > 0:
            arguments["logits_processor"] = self._sampling(images, again)
        return arguments

    def _sampling(self, images: list[Image.Image], again: bool) -> list[Callable]:
        from transformers import TemperatureLogitsWarper, TopPLogitsWarper

        noise = SeededNoise([_seed(image, f"{self.seed} {again}") for image in images])
        return [TemperatureLogitsWarper(self.temperature), TopPLogitsWarper(NUCLEUS), noise]


class SeededNoise:
    """A logits processor that makes greedy decoding draw, each row from a stream of its own.

    The largest of logits plus Gumbel noise falls on a token with that token's softmax probability (Gumbel 1954; the
    "Gumbel-max trick"). transformers' own sampling draws all rows from one stream, so that a caption would change with
    the batch its image comes in.

    Args:
        seeds: One a row.
    """

    def __init__(self, seeds: list[int]):
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Int[Tensor, "b l"], scores: Float[Tensor, "b v"]) -> Float[Tensor, "b v"]:
        """Add noise to (B, V) logits."""
        rows = [torch.empty(scores.shape[1]).exponential_(generator=one) for one in self._generators]
        return scores - torch.stack(rows).log().to(scores)


def _seed(image: Image.Image, salt: str) -> int:
    digest = hashlib.sha256(f"{salt} {image.size}".encode() + image.tobytes()).digest()
    return int.from_bytes(digest[:8], "big") >> 1  # torch takes 63 bits
