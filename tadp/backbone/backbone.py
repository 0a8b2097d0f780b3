"""TADPBackbone: images and captions in, multi-scale features and word-level attention out."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tadp.backbone.encoding import check_latents
from tadp.backbone.options import BackboneOptions, CombineTimesteps, described_options
from tadp.backbone.stored_model import StoredModel
from tadp.backbone.text_source import Text
from tadp.backbone.tiling import blend, check_tiling
from tadp.diffusion.vae import AnyVAE
from tadp.features import Features
from tadp.files.checks import check_whole
from tadp.files.inference import in_evaluation
from tadp.images.crops import Crops
from tadp.images.reading import MAX_PIXELS, ImageLike, crop_to_cells, to_tensor
from tadp.images.tiles import grid
from tadp.language.matching import Synonyms
from tadp.text.conditioning import Conditioning
from tadp.text.stack import AnyText

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
    from diffusers.schedulers.scheduling_utils import SchedulerMixin
    from transformers import CLIPTextModel, CLIPTokenizer


class TADPBackbone(StoredModel):
    """A text-to-image diffusion model as a vision backbone, which turns images and text into feature maps.

    The VAE and the text encoder are frozen. The U-Net trains unless you call `freeze()`. Maps are taken at several
    resolutions, called levels and counted from the finest: in Stable Diffusion 1.x, level 0 has stride 8 (one cell per
    8x8 pixels) and level 3 has stride 64. docs/base-models.md lists the levels of other base models.

    Args:
        vae: An `AutoencoderKL` or `AutoencoderTiny` of diffusers. Only its encoder is used.
        unet: A `UNet2DConditionModel` with the layout of Stable Diffusion 1.x, 2.x or XL, or the denoiser of a later
            model: an `SD3Transformer2DModel`, a `FluxTransformer2DModel`, or the denoiser of a registered family.
        text_encoder: A CLIP text model, or the `TextStack` of a model with several text encoders. None if all text is
            passed as `Conditioning`.
        tokenizer: The CLIP text model's tokenizer; None if `text_encoder` is not a CLIP text model.
        scheduler: The model's diffusers scheduler or its configuration, which determines how noise is added. None adds
            noise as the base models of the same family do: by diffusion or by flow matching.
        {options}

    Raises:
        ModelError: If the parts do not fit each other, or the U-Net's layout is unknown.
        ValueError: If a level, a block or a timestep in the options does not exist.

    Source:
        TADP Sec. 3. The layers whose output is read, and the attention, follow the paper's released code.
    """

    def __init__(
        self,
        *,
        vae: "AutoencoderKL | AutoencoderTiny | AnyVAE",
        unet: nn.Module,
        text_encoder: "CLIPTextModel | AnyText | None" = None,
        tokenizer: "CLIPTokenizer | None" = None,
        scheduler: "SchedulerMixin | Mapping[str, Any] | None" = None,
        timestep: int | Sequence[int] = 0,
        combine_timesteps: CombineTimesteps = "mean",
        noise_samples: int = 0,
        noise_seed: int = 0,
        scale_latents: bool = True,
        sample_posterior: bool = False,
        imagenet_pixels: bool = False,
        attach_attention: Sequence[int] = (1, 2),
        detach_attention: bool = False,
        record_attention: Sequence[int] = (),
        record_heads: bool = False,
        record_queries: bool = False,
        text_adapter: bool = False,
        text_length: int | None = None,
        pool_attention: Sequence[str] = (),
        pool_synonyms: Synonyms | None = None,
        default_text: str | None = "",
        blocks: Sequence[int] | None = None,
        levels: Sequence[int] | None = None,
    ):
        options = BackboneOptions(
            timestep=timestep, combine_timesteps=combine_timesteps, noise_samples=noise_samples, noise_seed=noise_seed,
            scale_latents=scale_latents, sample_posterior=sample_posterior, imagenet_pixels=imagenet_pixels,
            attach_attention=attach_attention, detach_attention=detach_attention, record_attention=record_attention,
            record_heads=record_heads, record_queries=record_queries, text_adapter=text_adapter,
            text_length=text_length, pool_attention=pool_attention, pool_synonyms=pool_synonyms,
            default_text=default_text, blocks=blocks, levels=levels,
        )  # fmt: skip
        super().__init__(
            options, vae=vae, unet=unet, text_encoder=text_encoder, tokenizer=tokenizer, scheduler=scheduler
        )

    def encode_image(
        self, images: ImageLike | Sequence[ImageLike], *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "b c h w"]:
        """Encode images to latents: E of the paper.

        Args:
            images: Images (B, 3, H, W) in [0, 1], or anything that `tadp.images.to_tensor` reads. They are padded on
                the right and at the bottom, by repeating the edge, to a multiple of the coarsest level's stride (64
                pixels for Stable Diffusion 1.x).
            generator: Random number generator for the option `sample_posterior`; None is torch's global one.

        Returns:
            Latents of the padded images, (B, 4, H / 8, W / 8) for Stable Diffusion 1.x, multiplied by the VAE's scaling
            factor if `scale_latents` is set. They carry no gradient.

        Raises:
            ImageError: If an image cannot be read, or has values or a size that cannot be used.
        """
        return self.latents(to_tensor(images), generator)[0]

    def extract(
        self,
        latents: Float[Tensor, "b c h w"],
        text: Text | None = None,
        *,
        image_size: tuple[int, int] | None = None,
        truncate: bool = False,
        levels: Sequence[int] | None = None,
    ) -> Features:
        """Run the U-Net on latents: ε of the paper.

        This is one pass at `timestep`, or several passes if there are several timesteps or noise samples.

        Args:
            latents: Latents without noise, (B, C, H, W), as `encode_image` returns them. Noise is added here.
            text: One caption for all images, one caption per image, or a `Conditioning`. None uses the same text as
                `backbone(images)`, except that an attached captioner cannot be used, because it needs images.
            image_size: (height, width) of the images before padding, in pixels, to which maps are cropped. None is the
                size that the latents cover.
            truncate: Whether captions over the token limit are cut, with a warning, instead of refused.
            levels: Levels to compute, finest first, such as (2, 3), among those of the backbone; None is all of them.
                The pass ends after the last layer that they need. Other levels have neither a map nor attention.

        Returns:
            The maps, finest first, cropped to ceil(size / stride) cells, and the attached and recorded attention.

        Raises:
            CaptionError: If the number of texts is neither one nor B.
            ValueError: If latents or text embeddings have a width or a size that the denoiser does not take.
        """
        check_latents(latents, channels=self.layout.latent_channels, multiple=self.layout.multiple, size=image_size)
        size = image_size or (latents.shape[2] * self.vae.reduction, latents.shape[3] * self.vae.reduction)
        names_vary = not isinstance(text, Conditioning)
        if not isinstance(text, Conditioning):
            text = self._find_text(text, len(latents), truncate=truncate)
        return self.features(latents, text, size, names_vary=names_vary, levels=levels)

    def forward(
        self,
        images: ImageLike | Sequence[ImageLike],
        text: Text | None = None,
        *,
        truncate: bool = False,
        generator: torch.Generator | None = None,
        vae_map: bool = False,
        levels: Sequence[int] | None = None,
    ) -> Features:
        """Compute the features of images, given their captions.

        Args:
            images: Images (B, 3, H, W) in [0, 1], of any height and width from 8 pixels up, or anything that
                `tadp.images.to_tensor` reads.
            text: One caption per image, one caption for all images, or a `Conditioning`. None uses the text of an open
                `conditioning()` block; without one, captions from the attached captioner; without that, `default_text`.
            truncate: Whether captions over the token limit are cut, with a warning, instead of refused.
            generator: Random number generator for the option `sample_posterior`; None is torch's global one.
            vae_map: Whether to also return a map of the VAE encoder, as `Features.vae_map`.
            levels: Levels to compute, as in `extract`.

        Raises:
            ImageError, CaptionError, ValueError: If `encode_image`, `encode_text` or `extract` raises them.

        Example:
            >>> import tadp
            >>> from tadp.datasets.scenes import Scenes
            >>> backbone = tadp.TADPBackbone.from_pretrained("tadp-tiny")
            >>> scene = Scenes(1, seed=5)[0]
            >>> features = backbone(scene.image, scene.caption())
            >>> [tuple(level.shape) for level in features.maps]
            [(1, 32, 16, 16), (1, 141, 8, 8), (1, 173, 4, 4), (1, 128, 2, 2)]
        """
        pixels, levels = to_tensor(images), self.chosen_levels(levels)
        names_vary = not isinstance(text, Conditioning)
        if not isinstance(text, Conditioning):  # before the slow part, in case the text is refused
            text = self._find_text(text, len(pixels), pixels=pixels, truncate=truncate)
        latents, half = self.latents(pixels, generator, vae_map=vae_map)
        size = pixels.shape[2], pixels.shape[3]
        features = self.features(latents, text, size, names_vary=names_vary, levels=levels)
        if half is None:
            return features
        return replace(features, vae_map=crop_to_cells(half, size, self.vae.reduction // 2))

    def batch_passes(self, batch_size: int = 1) -> "TADPBackbone":
        """Run several passes of a call at once, if the options ask for several timesteps or noise samples.

        The features differ by rounding. This takes less time on a GPU, and the memory of `batch_size` passes over all
        images of a call. The setting is not saved with the model; `with_options` copies it.

        Args:
            batch_size: Largest number of passes that run at once.

        Raises:
            TypeError: If `batch_size` is not an integer.
            ValueError: If `batch_size` is below 1.
        """
        self.passes = replace(self.passes, batch_size=check_whole(batch_size, name="batch_size"))
        return self

    @torch.no_grad()
    def tiled(
        self,
        image: ImageLike,
        text: Text | None = None,
        *,
        tile_px: int = 512,
        overlap_px: int = 128,
        batch_size: int = 1,
        truncate: bool = False,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        max_pixels: int | None = MAX_PIXELS,
        progress: bool = False,
        levels: Sequence[int] | None = None,
    ) -> Features:
        """Compute the features of one large image from overlapping tiles, which are blended where they overlap.

        The result carries no gradient. Peak memory is that of the result, of a pass over `batch_size` tiles, and of the
        image as it is stored. To the model, every tile is an image of its own: it normalises and attends over a tile
        rather than over the whole image, so the result differs from that of a single pass (docs/large-images.md has
        measurements). An image no larger than a tile gets a single pass, with exactly its result.

        Args:
            image: One image, in any form that `tadp.images.to_tensor` reads.
            text: One caption or `Conditioning` for all tiles, or one per tile, row by row, in the order of
                `tadp.images.tiles.grid`. None uses the same text as `backbone(images)`; an attached captioner then
                describes each tile.
            tile_px: Side of a tile in pixels, a multiple of the coarsest level's stride. Choose a side near that of the
                images with which the base model was trained.
            overlap_px: Number of pixels by which neighbouring tiles overlap, a multiple of the coarsest level's stride
                and less than `tile_px`.
            batch_size: Number of tiles per pass. With 1, every pass has the same shape.
            truncate: Whether captions over the token limit are cut, with a warning, instead of refused.
            dtype: Dtype of the result. None is the dtype of the backbone's features.
            device: Device of the result. None is the backbone's. "cpu" keeps a large result out of the GPU's memory.
            max_pixels: Largest number of pixels that the image may have. None removes the limit.
            progress: Whether to show a progress bar.
            levels: Levels to compute, as in `extract`.

        Returns:
            Features with the shapes of a single pass, where the map of level k is (1, channels[k],
            ceil(H / reduction[k]), ceil(W / reduction[k])). If each tile has its own text, `attention` is None, but
            pooled attention is still attached to the maps.

        Raises:
            CaptionError, ImageError: If the number of texts is neither one nor that of the tiles, or the image cannot
                be read.
            TypeError, ValueError: If an argument has a wrong type or value, or if each tile has its own text and the
                backbone attaches or records attention per token.
        """
        check_tiling(batch_size, dtype)
        crops, levels = Crops(image, max_pixels=max_pixels), self.chosen_levels(levels)
        tiles = grid(crops.size, tile_px=tile_px, overlap_px=overlap_px, multiple=max(self.strides))
        encoded = self._texts.resolve_tiles(
            text, tiles, self.encode_text, default=self.options.default_text, truncate=truncate
        )
        differ = len(tiles) > 1 and (encoded is None or len(encoded) > 1)
        if differ:
            self.options.check_text_per_tile()
        return blend(
            partial(in_evaluation(self), levels=levels), crops, tiles, encoded, strides=self.strides,
            with_attention=not differ, batch_size=batch_size, dtype=dtype, device=device, progress=progress,
        )  # fmt: skip


TADPBackbone.__doc__ = (TADPBackbone.__doc__ or "").replace("{options}", described_options())
