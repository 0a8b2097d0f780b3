"""How a captioner chooses its words: length limits, beam search or seeded sampling, and a second try."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from tadp.errors import Argument, OptionError
from tadp.files.checks import check_counts, check_numbers, check_whole

NUCLEUS = 0.9  # share of the probability to sample from, as BLIP does for captions (Li et al. 2022, Sec. 4.3)
# On the second try, no three consecutive tokens may occur twice, which prevents almost all loops. A repetition penalty
# would also affect the end token, which is part of the prompt in chat models.
NO_REPEAT = 3
FEWEST_TOKENS = 5  # minimal number of tokens on the second try


@dataclass(frozen=True)
class Decoding:
    """The settings by which a captioner chooses the words of a caption.

    Attributes:
        min_new_tokens: Smallest number of tokens in a caption, 0 or more.
        max_new_tokens: Largest number of tokens in a caption.
        num_beams: Number of beams of the beam search; 1 is greedy decoding.
        temperature: 0 takes the most likely words; above 0, words are sampled, with more variety at higher values.
        seed: Seed of the sampling; not used if the temperature is 0.
        prompt: Text that the model continues or answers; None gives no text.
        retry: Whether to try a second time if a caption is empty or repeats itself endlessly.

    Raises:
        ValueError: If a number is out of range, or if `num_beams` is above 1 and `temperature` above 0.
    """

    min_new_tokens: int = 0
    max_new_tokens: int = 77
    num_beams: int = 1
    temperature: float = 0.0
    seed: int = 0
    prompt: str | None = None
    retry: bool = True

    def __post_init__(self) -> None:
        check_counts(max_new_tokens=self.max_new_tokens, num_beams=self.num_beams)
        check_whole(self.min_new_tokens, name="min_new_tokens", minimum=None)
        check_whole(self.seed, name="seed", minimum=None)
        if not 0 <= self.min_new_tokens <= self.max_new_tokens:
            raise OptionError(
                Argument("min_new_tokens"),
                " must be 0 or more and at most ",
                Argument("max_new_tokens"),
                f" ({self.max_new_tokens}); got {self.min_new_tokens}.",
            )
        check_numbers(allow_nonfinite=True, temperature=self.temperature)
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature must be 0 or a finite number above 0; got {self.temperature}.")
        if not isinstance(self.prompt, str | None):
            raise TypeError(f"prompt must be one string for all images; got {type(self.prompt).__name__}.")
        if self.temperature > 0 and self.num_beams > 1:
            raise OptionError(
                f"sampling and beam search cannot be combined; got temperature {self.temperature} and "
                f"{self.num_beams} beams. Pass ",
                Argument("num_beams", 1),
                " or temperature=0.",
            )

    def arguments(self, images: list[Image.Image], *, again: bool = False) -> dict[str, Any]:
        """Return the arguments for the `generate` method of transformers.

        Args:
            images: The images of the batch. If words are sampled, each image's random numbers are seeded with `seed`
                and the image, so that a caption does not depend on the rest of the batch.
            again: Whether this is the second try for these images.
        """
        fewest = max(self.min_new_tokens, min(FEWEST_TOKENS, self.max_new_tokens)) if again else self.min_new_tokens
        arguments: dict[str, Any] = {
            "do_sample": False,  # a logits processor below does the sampling
            "num_beams": self.num_beams,
            "max_new_tokens": self.max_new_tokens,  # always given, because BLIP ignores its saved generation config
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


class Overflow:
    """A logits processor that changes nothing and remembers the rows whose logits are NaN or infinite."""

    def __init__(self) -> None:
        self._rows: Tensor | None = None

    def __call__(self, input_ids: Int[Tensor, "b l"], scores: Float[Tensor, "b v"]) -> Float[Tensor, "b v"]:
        """Look at (B, V) logits. The maximum of a row is NaN if one is; -inf only marks tokens that may not come."""
        rows = ~(scores.amax(dim=1) < torch.inf)
        self._rows = rows if self._rows is None else self._rows | rows
        return scores

    def rows(self, count: int) -> list[bool]:
        """Whether each of `count` images was affected; with beams, an image has several rows."""
        return [False] * count if self._rows is None else self._rows.view(count, -1).any(dim=1).tolist()


class SeededNoise:
    """A logits processor that turns greedy decoding into sampling, with separate random numbers for each image.

    It adds Gumbel noise to the logits. The probability that a token has the largest sum is then its softmax probability
    (Gumbel 1954; the "Gumbel-max trick"), so greedy decoding draws from the softmax distribution. transformers' own
    sampling shares one random number generator among all rows, so a caption would depend on the rest of the batch.

    Args:
        seeds: One seed per row of the batch.
    """

    def __init__(self, seeds: list[int]):
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Int[Tensor, "b l"], scores: Float[Tensor, "b v"]) -> Float[Tensor, "b v"]:
        """Add noise to (B, V) logits."""
        rows = [torch.empty(scores.shape[1]).exponential_(generator=generator) for generator in self._generators]
        return scores - torch.stack(rows).log().to(scores)


def _seed(image: Image.Image, salt: str) -> int:
    digest = hashlib.sha256(f"{salt} {image.size}".encode() + image.tobytes()).digest()
    return int.from_bytes(digest[:8], "big") >> 1  # torch takes 63 bits


def without_echo(ids: Tensor, prompt: Tensor) -> Tensor:
    """Remove the prompt from the start of generated token ids, if the model repeats it there.

    Decoder-only models repeat the whole prompt, BLIP repeats all but its last token, and encoder-decoder models repeat
    nothing.

    Args:
        ids: Generated token ids, (B, L).
        prompt: Token ids of the prompt, (B, P).

    Returns:
        The token ids of the captions, (B, L - P) or (B, L - P + 1), or `ids` itself if the prompt is not repeated.
    """
    for length in (prompt.shape[1], prompt.shape[1] - 1):
        # The first token is not compared: BLIP replaces it with its own start token.
        if ids.shape[1] >= length and torch.equal(ids[:, 1:length], prompt[:, 1:length]):
            return ids[:, length:]
    return ids
