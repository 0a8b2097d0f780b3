"""`Layout`: where the levels of a denoiser are, and whether a denoiser and its pass agree with it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from tadp.errors import ModelError


@dataclass(frozen=True)
class Layout:
    """Where the levels of a denoiser are, and which inputs it takes. Level 0 is the finest.

    Attributes:
        channels: Number of channels of each level's map, without attention.
        reduction: Width in latent cells of one cell of each level: (1, 2, 4, 8) for Stable Diffusion 1.x.
        taps: For each level, the name of the module whose output becomes the map.
        attention_layers: The level of each attention layer that can be recorded, by layer name.
        latent_channels: Number of channels of the latents: 4 up to Stable Diffusion XL, 16 from Stable Diffusion 3 on.
        text_width: D, the width of a token's embedding.
        pooled_width: P, the width of a text's pooled embedding; None if the denoiser takes no pooled embedding.
        levels: Levels whose maps a pass returns, finest first; None is all levels. See `only`.
    """

    channels: tuple[int, ...]
    reduction: tuple[int, ...]
    taps: tuple[str, ...]
    attention_layers: Mapping[str, int]
    latent_channels: int
    text_width: int
    pooled_width: int | None = None
    levels: tuple[int, ...] | None = None

    def __str__(self) -> str:
        return f"channels {self.channels}, latent_channels {self.latent_channels}, text_width {self.text_width}"

    def only(self, levels: Sequence[int] | None, attention: Collection[int]) -> "Layout":
        """Return the same layout for a pass that returns fewer maps; levels keep their numbers.

        Args:
            levels: Levels whose maps the pass returns, finest first; None is all levels.
            attention: Levels whose attention layers are kept.
        """
        if levels is None or len(levels) == len(self.channels):
            return self
        layers = {name: level for name, level in self.attention_layers.items() if level in attention}
        return replace(self, attention_layers=layers, levels=tuple(levels))

    @property
    def wanted(self) -> tuple[int, ...]:
        """Levels whose maps a pass returns, finest first."""
        return tuple(range(len(self.channels))) if self.levels is None else self.levels

    @property
    def attention_levels(self) -> tuple[int, ...]:
        """Levels at which attention to the text can be recorded."""
        return tuple(sorted(set(self.attention_layers.values())))

    def query_channels(self, level: int) -> int:
        """Channels of the recorded queries and keys of a level.

        For each recorded layer, these are queries and keys of the self-attention before it, and its own queries.
        """
        return 3 * self.channels[level] * list(self.attention_layers.values()).count(level)

    @property
    def multiple(self) -> int:
        """The number that the height and width of the latents must be multiples of."""
        return max(self.reduction)

    def check_names(self, model: nn.Module, family: str) -> None:
        """Refuse a layout that names layers which the denoiser lacks.

        Raises:
            ModelError: If a name in `taps` or `attention_layers` is not a module of the denoiser.
        """
        modules = dict(model.named_modules())
        for kind, names in (("taps", self.taps), ("attention_layers", self.attention_layers)):
            for name in names:
                if name not in modules:
                    raise ModelError(
                        f"the layout of {family} has {name!r} in {kind}, but the denoiser has no module of that name."
                    )

    def check_pass(
        self,
        maps: Sequence[Tensor],
        attention: Mapping[int, Tensor],
        latents: Tensor,
        *,
        tokens: int,
        record_levels: Sequence[int],
        record_heads: bool = False,
        record_queries: bool = False,
        family: str,
    ) -> None:
        """Check that the result of a pass has the shapes that the layout describes.

        Sizes are not checked while a graph is compiled or exported, because they may be symbols there.

        Args:
            maps: The maps that the pass returned.
            attention: The attention that the pass returned, by level.
            latents: The latents that were passed to the denoiser.
            tokens: Number of tokens of the text.
            record_levels: Levels whose attention should be there.
            record_heads: Whether the channels of each head should follow those of the mean.
            record_queries: Whether those of queries and keys should follow; see `query_channels`.
            family: Name of the family, for the message.

        Raises:
            ModelError: If the number of maps, their channels or sizes, or the recorded attention are not as described.
        """
        levels = self.wanted
        if len(maps) != len(levels):
            expected = f"{len(levels)} are expected, of levels {levels}"
            raise ModelError(f"a pass of {family} returned {len(maps)} maps; {expected}.")
        height, width = latents.shape[2:]
        for level, feature_map in zip(levels, maps, strict=True):
            cells = self.reduction[level]
            results = [("map", feature_map, self.channels[level], "channels")]
            if level in record_levels:
                if level not in attention:
                    raise ModelError(f"a pass of {family} returned no attention for level {level}, which is recorded.")
                queries = self.query_channels(level) if record_queries else 0
                heads = max((attention[level].shape[1] - queries) // tokens - 1, 1) if record_heads else 0
                results.append(("attention", attention[level], tokens * (1 + heads) + queries, "tokens"))
            for kind, result, count, unit in results:
                if result.ndim != 4 or result.shape[1] != count:
                    raise ModelError(
                        f"the {kind} of level {level} must be (B, {count} {unit}, height, width) by the layout of "
                        f"{family}; its pass returned {tuple(result.shape)}."
                    )
                size = (height // cells, width // cells)
                if not torch.compiler.is_compiling() and tuple(result.shape[2:]) != size:
                    raise ModelError(
                        f"the {kind} of level {level} must have {size[0]}x{size[1]} cells by the layout of {family}, "
                        f"for latents of {height}x{width}; its pass returned {result.shape[2]}x{result.shape[3]}."
                    )
