"""TADPBackbone: images and captions in, multi-scale features and word-level attention out."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tadp.backbone.encoding import check_latents
from tadp.backbone.feature_model import FeatureModel
from tadp.backbone.options import BackboneOptions, CombineTimesteps, described_options
from tadp.backbone.summary import summarize
from tadp.backbone.text_source import CaptionFunction, Text, TextSource
from tadp.backbone.tiling import blend, check_tiling
from tadp.diffusion.loading.networks import load_text_adapter
from tadp.diffusion.loading.parts import load_parts, save_parts
from tadp.diffusion.vae import AnyVAE
from tadp.features import Features
from tadp.files.atomic import replace_folder
from tadp.files.hub import HubOptions, Source
from tadp.files.model_folder import model_folder
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


class TADPBackbone(FeatureModel):
    """A Stable Diffusion VAE encoder and U-Net as a vision backbone, steered by text.

    The VAE and the text encoder are frozen; the U-Net trains, unless `freeze()` is called. Levels count from the
    finest: level 0 has stride 8, level 3 stride 64 in Stable Diffusion 1.x. docs/base-models.md has the other families.

    Args:
        vae: An `AutoencoderKL` or `AutoencoderTiny`, of which the encoder is used.
        unet: A `UNet2DConditionModel` laid out like Stable Diffusion 1.x, 2.x or XL; or what takes its place in later
            models, an `SD3Transformer2DModel` or a `FluxTransformer2DModel`.
        text_encoder: A CLIP text model, the `TextStack` of a model with several, or None if text always comes as
            `Conditioning`.
        tokenizer: The CLIP text model's tokenizer.
        scheduler: A diffusers scheduler of the model, or its configuration, for how noise is added; None adds it as
            Stable Diffusion, or as flow matching.
        {options}

    Raises:
        ModelError: If the parts do not fit each other, or the U-Net's layout is unknown.
        ValueError: If a level, a block or the timestep does not exist.

    Source:
        TADP Sec. 3; taps and attention as in its released code.
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
        text_adapter: bool = False,
        text_length: int | None = None,
        pool_attention: Sequence[str] = (),
        pool_synonyms: Synonyms | None = None,
        default_text: str | None = "",
        blocks: Sequence[int] | None = None,
    ):
        options = BackboneOptions(
            timestep=timestep, combine_timesteps=combine_timesteps, noise_samples=noise_samples, noise_seed=noise_seed,
            scale_latents=scale_latents, sample_posterior=sample_posterior, imagenet_pixels=imagenet_pixels,
            attach_attention=attach_attention, detach_attention=detach_attention, record_attention=record_attention,
            text_adapter=text_adapter, text_length=text_length, pool_attention=pool_attention,
            pool_synonyms=pool_synonyms, default_text=default_text, blocks=blocks,
        )  # fmt: skip
        super().__init__(
            options, vae=vae, unet=unet, text_encoder=text_encoder, tokenizer=tokenizer, scheduler=scheduler
        )
        self._source: Source | None = None
        self._texts = TextSource()

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        variant: str | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        memory_format: torch.memory_format = torch.contiguous_format,
        local_files_only: bool = False,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        unet: nn.Module | str | Path | None = None,
        vae: "AutoencoderKL | AutoencoderTiny | AnyVAE | str | Path | None" = None,
        lora: str | Path | None = None,
        lora_scale: float = 1.0,
        text_encoder: "CLIPTextModel | AnyText | None" = None,
        tokenizer: "CLIPTokenizer | None" = None,
        load_t5: bool = True,
        **options: Any,
    ) -> "TADPBackbone":
        """Load a base model as a backbone, in evaluation mode: Stable Diffusion 1.x, 2.x, XL, 3.x, or FLUX.

        Args:
            name: "tadp-tiny" (comes with tadp), a folder in diffusers layout, or a hub id such as
                "stable-diffusion-v1-5/stable-diffusion-v1-5".
            revision: Branch, tag or commit on the hub.
            variant: Which weight files, e.g. "fp16".
            dtype: Dtype of all parts; None is float32.
            device: Where it goes, e.g. "cuda"; None is the CPU. `.to(device)` does the same later.
            memory_format: Memory format of the convolutions; `torch.channels_last` suits bfloat16 (docs/speed.md).
            local_files_only: Never ask the hub.
            cache_dir: Where hub models are kept.
            token: For gated models.
            unet: One in place of the model's, which is then not loaded: itself, a folder, a hub id, or a .safetensors
                file of the tensors of the model's U-Net, here or on the hub ("owner/name/file.safetensors").
            vae: One in place of the model's, in the same ways; an `AutoencoderTiny` is faster and a little coarser.
            lora: A LoRA to add to the weights of U-Net and text encoder: a file, a folder or a hub id. Extra `train`.
            lora_scale: How much of it is added.
            text_encoder: One in place of the model's, which is then not loaded.
            tokenizer: The text encoder's tokenizer.
            load_t5: Load the T5 of Stable Diffusion 3, which is twice as large as all else; without it the caption is
                what its two CLIPs make of it.
            **options: `TADPBackbone`'s own; those saved with the model are the default.

        Raises:
            UnknownModelError: If there is no such model.
            MissingFileError, CorruptFileError: If a file is missing, damaged, or a pickle; the message says which.
            ModelError: If the model is of an unknown kind.
            TypeError: If `dtype` is not a `torch.dtype`.
        """
        if dtype is not None and not isinstance(dtype, torch.dtype):
            raise TypeError(f"dtype is a torch.dtype, such as torch.bfloat16; got {dtype!r}.")
        hub = HubOptions(revision, variant, cache_dir, token, local_files_only)
        folder, dtype = model_folder(name, hub=hub), dtype or torch.float32
        given = {"unet": unet, "vae": vae, "text_encoder": text_encoder, "tokenizer": tokenizer}
        parts, saved, weights = load_parts(
            folder,
            dtype=dtype,
            given=given,
            lora=lora,
            lora_scale=lora_scale,
            hub=hub,
            load_t5=load_t5,
        )
        backbone = cls(**(parts | saved | options))
        backbone._source = Source.of(name, folder, revision=revision, weights=weights)
        if backbone.text_adapter is not None and saved.get("text_adapter"):
            load_text_adapter(backbone.text_adapter, folder, dtype=dtype)
        for module in (backbone.vae, backbone.unet):
            module.to(memory_format=memory_format)  # pyright: ignore[reportCallIssue]  missing in torch's stub
        return backbone.eval() if device is None else backbone.to(device).eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the backbone as a folder in diffusers layout that `from_pretrained` gives back bit for bit.

        The VAE is written without its decoder. A failure leaves what the folder held.

        Raises:
            OutputError: If the folder cannot be written.
        """
        with replace_folder(Path(folder)) as part:
            save_parts(
                part,
                unet=self.unet,
                vae=self.vae,
                text_encoder=self.text_encoder,
                text_adapter=self.text_adapter,
                scheduler=self.passes.scheduler,
                options=self.options.to_dict(),
            )

    def __repr__(self) -> str:
        return summarize(self, self.source)

    @property
    def source(self) -> Source | None:
        """What `from_pretrained` loaded, whatever was trained or installed since; None for a backbone made of parts."""
        return self._source

    @property
    def captioner(self) -> CaptionFunction | None:
        """The attached captioner, if there is one."""
        return self._texts.captioner

    def encode_image(
        self, images: ImageLike | Sequence[ImageLike], *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "b c h w"]:
        """E of the paper.

        Args:
            images: (B, 3, H, W) in [0, 1], or anything `tadp.images.to_tensor` reads. Padded on the right and bottom,
                with the edge repeated, to the U-Net's multiple (64 pixels for Stable Diffusion).
            generator: For `sample_posterior`.

        Returns:
            Latents, (B, 4, H / 8, W / 8) of the padded image, scaled if `scale_latents`. Without gradient.

        Raises:
            ImageError: If an image cannot be read or used.
        """
        return self.latents(to_tensor(images), generator)[0]

    def extract(
        self,
        latents: Float[Tensor, "b c h w"],
        text: Text | None = None,
        *,
        image_size: tuple[int, int] | None = None,
        truncate: bool = False,
    ) -> Features:
        """ε of the paper: one pass of the U-Net at `timestep`, or several where timesteps or noises are.

        Args:
            latents: From `encode_image`, or a cache of it; clean, as noise is added here.
            text: Captions, or `Conditioning` with one text or one an image. None as in a call of the backbone, but an
                attached captioner needs images.
            image_size: (height, width) before padding, to which maps are cropped; the latents' own by default.
            truncate: Cut captions over the limit, with a warning, rather than refuse them.

        Returns:
            Maps finest first, cropped to ceil(size / stride) cells, with the attention of the levels asked for.

        Raises:
            CaptionError: If there are neither one nor B texts.
            ValueError: If latents or embeddings have the wrong width or size.
        """
        check_latents(latents, channels=self.layout.latent_channels, multiple=self.layout.multiple)
        size = image_size or (latents.shape[2] * self.vae.reduction, latents.shape[3] * self.vae.reduction)
        if isinstance(text, Conditioning):
            return self.features(latents, text, size)
        return self.features(latents, self._encoded(text, len(latents), truncate=truncate), size, names_vary=True)

    def forward(
        self,
        images: ImageLike | Sequence[ImageLike],
        text: Text | None = None,
        *,
        truncate: bool = False,
        generator: torch.Generator | None = None,
        vae_map: bool = False,
    ) -> Features:
        """Features of images under captions.

        Args:
            images: (B, 3, H, W) in [0, 1], of any height and width from 8 pixels up, or anything
                `tadp.images.to_tensor` reads.
            text: One caption an image, one string for all, or `Conditioning`. None takes the text of
                `conditioning()`, else the words of the attached captioner, else `default_text`.
            truncate: Cut captions over the limit, with a warning, rather than refuse them.
            generator: For `sample_posterior`.
            vae_map: Return the VAE encoder's map at half the finest stride too, as `Features.vae_map`.

        Raises:
            ImageError, CaptionError, ValueError: As `encode_image`, `encode_text` and `extract`.

        Example:
            >>> import tadp
            >>> from tadp.datasets.scenes import Scenes
            >>> backbone = tadp.TADPBackbone.from_pretrained("tadp-tiny")
            >>> scene = Scenes(1, seed=5)[0]
            >>> features = backbone(scene.image, scene.caption())
            >>> [tuple(one.shape) for one in features.maps]
            [(1, 32, 16, 16), (1, 141, 8, 8), (1, 173, 4, 4), (1, 128, 2, 2)]
        """
        pixels = to_tensor(images)
        names_vary = not isinstance(text, Conditioning)
        if not isinstance(text, Conditioning):  # before the slow part, in case it is refused
            text = self._encoded(text, len(pixels), pixels=pixels, truncate=truncate)
        latents, half = self.latents(pixels, generator, vae_map=vae_map)
        size = pixels.shape[2], pixels.shape[3]
        features = self.features(latents, text, size, names_vary=names_vary)
        if half is None:
            return features
        return replace(features, vae_map=crop_to_cells(half, size, self.vae.reduction // 2))

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
    ) -> Features:
        """Features of one large image, from overlapping tiles that are blended where they meet. Without gradient.

        Peak memory is that of the result, of a pass over `batch_size` tiles, and of the image as it is stored. Every
        tile is an image to the model: what it normalises or attends to over a whole image, it does over a tile, so the
        result is not that of one pass (docs/large-images.md has measurements). An image no larger than a tile is one
        pass, bit for bit.

        Args:
            image: One image, as `tadp.images.to_tensor` takes it.
            text: One caption or `Conditioning` for all tiles; or one for each, row by row, as `tadp.images.tiles.grid`
                lists them. None as in a call of the backbone: a captioner that is attached describes each tile.
            tile_px: Side of a tile, a multiple of the coarsest stride; about the size the model was trained on.
            overlap_px: Pixels that neighbouring tiles share, a multiple of the coarsest stride, under `tile_px`.
            batch_size: Tiles that go through together. With 1 every pass has one shape.
            truncate: Cut captions over the limit, with a warning, rather than refuse them.
            dtype: Dtype of the result; None is that of the backbone's features.
            device: Device of the result; None is the backbone's. "cpu" keeps a large result out of a GPU's memory.
            max_pixels: The most pixels that are read; None lifts the limit.
            progress: Show a progress bar.

        Returns:
            The features of one pass: level k is (1, channels[k], ceil(H / reduction[k]), ceil(W / reduction[k])). Where
            tiles have texts of their own, `attention` is None, and attention that is attached by name is in the maps.

        Raises:
            CaptionError, ImageError: If there is neither one text nor one per tile, or the image cannot be read.
            TypeError, ValueError: If a size is not a multiple, `overlap_px` not under `tile_px`, another argument not
                of its type, or attention by token is asked for although tiles have texts of their own.
        """
        check_tiling(batch_size, dtype)
        crops, reduction = Crops(image, max_pixels=max_pixels), self.feature_info.reduction
        tiles = grid(crops.size, tile_px=tile_px, overlap_px=overlap_px, multiple=reduction[-1])
        encoded = self._texts.resolve_tiles(
            text, tiles, self.encode_text, default=self.options.default_text, truncate=truncate
        )
        differ = len(tiles) > 1 and (encoded is None or len(encoded) > 1)
        if differ:
            self.options.check_text_per_tile()
        return blend(
            self, crops, tiles, encoded, reduction=reduction, with_attention=not differ, batch_size=batch_size,
            dtype=dtype, device=device, progress=progress,
        )  # fmt: skip

    def conditioning(self, text: Text) -> AbstractContextManager[None]:
        """Within the block, `backbone(images)` takes this text: for frameworks that pass images alone.

        Each thread has its own.

        Args:
            text: One caption for each image of the batch, one string for all, or `Conditioning`.

        Raises:
            CaptionError: If there is no text.
        """
        return self._texts.blocks.open(text)

    def attach_captioner(self, captioner: CaptionFunction | str | None, **options: Any) -> "TADPBackbone":
        """Let `backbone(images)` describe its images by itself, outside of `conditioning()`.

        The captioner is no part of the backbone: it is not saved, not moved, and copies of the backbone share it. What
        it says beyond the text encoder's limit is cut, with a warning.

        Args:
            captioner: A `Captioner`, the name of one, or any function from (B, 3, H, W) in [0, 1] to B captions. None
                takes the attached one away.
            **options: `Captioner.from_pretrained`'s own, for a name.

        Raises:
            UnknownModelError: If there is no such captioner.
            TypeError: If it is none of these.
        """
        self._texts = self._texts.with_captioner(captioner, **options)
        return self

    def _encoded(
        self, text: str | Sequence[str] | None, count: int, *, truncate: bool, pixels: Tensor | None = None
    ) -> Conditioning:
        default = self.options.default_text
        return self._texts.resolve(text, count, self.encode_text, default=default, pixels=pixels, truncate=truncate)


def refuse_name(backbone: object) -> None:
    """Refuse the name of a model where a backbone is wanted: with which options it is to be loaded, nobody said."""
    if isinstance(backbone, str | Path):
        raise TypeError(f"a TADPBackbone is wanted; got {str(backbone)!r}. Pass TADPBackbone.from_pretrained(…) of it.")


TADPBackbone.__doc__ = (TADPBackbone.__doc__ or "").replace("{options}", described_options())
