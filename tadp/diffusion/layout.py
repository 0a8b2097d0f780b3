"""What a backbone knows of a denoiser, whether U-Net or transformer: its levels, and what a pass takes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """Where the levels of a denoiser are, and what it takes; level 0 is the finest.

    Attributes:
        channels: Channels of each level's map.
        reduction: Latent cells per cell of each level: (1, 2, 4, 8) for Stable Diffusion 1.x.
        attention_levels: Levels at which attention to the text can be recorded.
        latent_channels: Channels of the latents: 4, or 16 since Stable Diffusion 3.
        text_width: D, the width of a token's embedding.
        pooled_width: P, the width of the pooled embedding of a text; None if the denoiser takes none.
    """

    channels: tuple[int, ...]
    reduction: tuple[int, ...]
    attention_levels: tuple[int, ...]
    latent_channels: int
    text_width: int
    pooled_width: int | None

    @property
    def multiple(self) -> int:
        """Latent height and width are padded to a multiple of this."""
        return self.reduction[-1]
