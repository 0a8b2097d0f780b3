"""TADPBackbone: images and captions in, multi-scale features and word-level attention out."""

import copy
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tadp.backbone.encoding import check_latents, encode
from tadp.backbone.model_parts import ModelParts
from tadp.backbone.options import BackboneOptions, CombineTimesteps, Option
from tadp.backbone.passes import Passes
from tadp.backbone.text_source import CaptionFunction, Text, TextSource, never_compiled
from tadp.backbone.tiling import blend, check_tiling
from tadp.diffusion.attention import attach_attention as join_attention
from tadp.diffusion.loading.networks import load_text_adapter
from tadp.diffusion.loading.parts import load_parts, save_parts
from tadp.diffusion.vae import AnyVAE
from tadp.errors import ModelError
from tadp.features import AttentionMaps, FeatureInfo, Features
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


class TADPBackbone(ModelParts):
    """A Stable Diffusion VAE encoder and U-Net as a vision backbone, steered by text.

    The VAE and the text encoder are frozen; the U-Net trains, unless `freeze()` is called. Levels count from the
    finest: level 0 has stride 8, level 3 stride 64 in Stable Diffusion 1.x. docs/base-models.md has the other families.

    Args:
        vae: An `AutoencoderKL` or `AutoencoderTiny`, of which the encoder is used.
        unet: A `UNet2DConditionModel` laid out like Stable Diffusion 1.x, 2.x or XL; or what takes its place in later
            models, an `SD3Transformer2DModel` or a `FluxTransformer2DModel`.
        text_encoder: A CLIP text model, the `TextStack` of a model with several, or None if text always comes as
            `Conditioning`.
        tokenizer: The CLIP text model's.
        scheduler: A diffusers scheduler of the model, or its configuration, for how noise is added; None adds it as
            Stable Diffusion, or as flow matching.
        timestep: Diffusion time at which features are read, 0 to 999, or several. The paper says 0, its released code
            runs 1. docs/noise.md says what others take, here and in the next three.
        combine_timesteps: Average the maps of several timesteps, or concatenate them in their order. Attention is
            averaged.
        noise_samples: Average over so many noises, the same for every image; 0 adds none.
        noise_seed: Of the noises.
        scale_latents: Multiply latents by the VAE's scaling factor (0.18215), as in training.
        sample_posterior: Sample the VAE's posterior, as the released code does; its mode otherwise, so that one image
            gives one feature.
        imagenet_pixels: Give the VAE pixels normalised by ImageNet's mean and deviation, as the released detection and
            Cityscapes models were trained, in place of [-1, 1], for which it was made.
        attach_attention: Levels whose maps get the attention as further channels, one a token. (1, 2) is the paper's.
        detach_attention: Stop the gradient at the attached attention, as the released code does unsaid.
        record_attention: Further levels whose attention is returned, not attached.
        text_adapter: Train VPD's gated adapter on the text.
        text_length: Tokens of every text, which `feature_info` counts as channels; the text encoder's 77 by default.
        pool_attention: Names (words, nouns, classes) by which attention is pooled before it is attached: a channel a
            name, see `AttentionMaps.pool`, instead of one a token, and text of any length. A name that a text lacks
            gives zeros.
        pool_synonyms: Further words for these names, `{"person": ["man", "woman"]}`.
        default_text: The text of `backbone(images)` where nothing else gives one; "" is the empty prompt, and None
            refuses such a call.
        blocks: Of a transformer (Stable Diffusion 3, FLUX), the numbers of the three blocks that become the levels of
            strides 8, 16 and 32, whose attention is theirs too; None takes those of docs/base-models.md.

    Raises:
        ModelError: If the parts do not fit each other, or the U-Net's layout is unknown.
        ValueError: If a level, a block or the timestep does not exist.

    Source:
        TADP Sec. 3; taps and attention as in its released code.
    """

    # The options, to read; `with_options` gives a backbone with others.
    timestep = Option[int | tuple[int, ...]]()
    combine_timesteps = Option[CombineTimesteps]()
    noise_samples = Option[int]()
    noise_seed = Option[int]()
    scale_latents = Option[bool]()
    sample_posterior = Option[bool]()
    imagenet_pixels = Option[bool]()
    attach_attention = Option[tuple[int, ...]]()
    detach_attention = Option[bool]()
    record_attention = Option[tuple[int, ...]]()
    text_length = Option[int | None]()
    pool_attention = Option[tuple[str, ...]]()
    pool_synonyms = Option[dict[str, list[str]] | None]()
    default_text = Option[str | None]()
    blocks = Option[tuple[int, ...] | None]()

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
            vae=vae,
            unet=unet,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            text_adapter=options.text_adapter,
            blocks=options.blocks,
        )
        self._source: Source | None = None
        self._texts = TextSource(options.default_text)
        self._set_options(options, scheduler)

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
            dtype: Of all parts; None is float32.
            device: Where it goes, e.g. "cuda"; None is the CPU. `.to(device)` does the same later.
            memory_format: Of the convolutions; `torch.channels_last` suits bfloat16 (docs/speed.md).
            local_files_only: Never ask the hub.
            cache_dir: Where hub models are kept.
            token: For gated models.
            unet: One in place of the model's, which is then not loaded: itself, a folder, a hub id, or a .safetensors
                file of the tensors of the model's U-Net, here or on the hub ("owner/name/file.safetensors").
            vae: One in place of the model's, likewise; an `AutoencoderTiny` is faster and a little coarser.
            lora: A LoRA to add to the weights of U-Net and text encoder: a file, a folder or a hub id. Extra `train`.
            lora_scale: How much of it is added.
            text_encoder: One in place of the model's, which is then not loaded.
            tokenizer: The text encoder's.
            load_t5: Load the T5 of Stable Diffusion 3, which is twice as large as all else; without it the caption is
                what its two CLIPs make of it.
            **options: `TADPBackbone`'s own; those saved with the model are the default.

        Raises:
            UnknownModelError: If there is no such model.
            MissingFileError: If a part is missing; the message says which and where.
            CorruptFileError: If a weight file is damaged, or a pickle.
            ModelError: If the model is of an unknown kind.
            TypeError: If `dtype` is no `torch.dtype`.
        """
        if dtype is not None and not isinstance(dtype, torch.dtype):
            raise TypeError(f"dtype is a torch.dtype, such as torch.bfloat16; got {dtype!r}.")
        hub = HubOptions(revision, variant, cache_dir, token, local_files_only)
        folder = model_folder(name, hub=hub)
        dtype = dtype or torch.float32
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

    @property
    def source(self) -> Source | None:
        """What `from_pretrained` loaded, whatever was trained or installed since; None for a backbone made of parts."""
        return self._source

    @property
    def captioner(self) -> CaptionFunction | None:
        """The attached captioner, if there is one."""
        return self._texts.captioner

    @property
    def options(self) -> BackboneOptions:
        """The constructor's options, as saved with the model."""
        return self._options

    def with_options(self, **options: Any) -> "TADPBackbone":
        """A backbone with other options that is the same model: VAE, U-Net, text encoder and adapter are shared.

        What is trained, moved, frozen or installed in one is so in both, and `train()` sets the parts of both. An open
        `conditioning()` block gives its text to both. The source and the attached captioner are taken over;
        `attach_captioner` later changes only the one it is called on. A `copy.deepcopy` shares nothing.

        Args:
            **options: Any of the constructor's, but for `text_adapter`, which has weights of its own, and `blocks` for
                which the U-Net was not prepared.

        Raises:
            TypeError: If there is no such option, or it is of the wrong type.
            ValueError: If an option is out of range, or needs other weights or another layout.

        Example:
            >>> import tadp
            >>> backbone = tadp.TADPBackbone.from_pretrained("tadp-tiny", attach_attention=())
            >>> recording = backbone.with_options(record_attention=(1,))
            >>> recording.unet is backbone.unet, recording.record_attention, backbone.record_attention
            (True, (1,), ())
        """
        changed = self.options.changed(**options)
        if changed.text_adapter != self.options.text_adapter:
            raise ValueError(
                "text_adapter has weights of its own, which backbones that share weights cannot differ in; build or "
                f"load a backbone with text_adapter={changed.text_adapter}."
            )
        if changed.blocks != self.options.blocks and self.family.read_layout(self.unet, changed.blocks) != self.layout:
            raise ValueError(
                f"the model is prepared for other blocks than {changed.blocks}, and shared; load another backbone with "
                f"blocks={changed.blocks}."
            )
        other = copy.copy(self)
        other._set_options(changed, self.passes.scheduler)
        return other

    def _set_options(self, options: BackboneOptions, scheduler: "SchedulerMixin | Mapping[str, Any] | None") -> None:
        """Take options that this model can run."""
        options.check_levels(self.layout, self.vae.reduction)
        length = options.text_length or (self.text_encoder.length if self.text_encoder else None)
        self._options = options.changed(text_length=length)
        self.passes = Passes.of(self._options, scheduler, self.family.noise_kind)
        self._texts = replace(self._texts, default=options.default_text)

    @property
    def feature_info(self) -> FeatureInfo:
        """Channels and strides of the maps, finest first.

        Raises:
            ModelError: If attention is attached and neither a text encoder nor `text_length` says how many tokens.
        """
        options = self.options
        attached = len(options.pool_attention) or options.text_length
        if options.attach_attention and attached is None:
            raise ModelError(
                "without a text encoder the number of attention channels is unknown; pass text_length= or "
                "pool_attention=."
            )
        return FeatureInfo(
            channels=tuple(
                channels * self.passes.width + (attached or 0) * (level in options.attach_attention)
                for level, channels in enumerate(self.layout.channels)
            ),
            reduction=tuple(self.vae.reduction * cells for cells in self.layout.reduction),
        )

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
        return self._encode_pixels(to_tensor(images), generator)[0]

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
            return self._extract(latents, text, size)
        encoded = self._texts.resolve(text, len(latents), self.encode_text, truncate=truncate)
        return self._extract(latents, encoded, size, names_vary=True)

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
        # before the slow part, in case it is refused
        if isinstance(text, Conditioning):
            encoded = text
        else:
            encoded = self._texts.resolve(text, len(pixels), self.encode_text, pixels=pixels, truncate=truncate)
        latents, half = self._encode_pixels(pixels, generator, vae_map=vae_map)
        size = pixels.shape[2], pixels.shape[3]
        features = self._extract(latents, encoded, size, names_vary=not isinstance(text, Conditioning))
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
            CaptionError: If there is neither one text nor one per tile; the message says how many tiles there are.
            ImageError: If the image cannot be read or used.
            TypeError, ValueError: If a size is not a multiple, `overlap_px` not under `tile_px`, another argument not
                of its type, or attention by token is asked for although tiles have texts of their own.
        """
        check_tiling(batch_size, dtype)
        crops, reduction = Crops(image, max_pixels=max_pixels), self.feature_info.reduction
        tiles = grid(crops.size, tile_px=tile_px, overlap_px=overlap_px, multiple=reduction[-1])
        encoded = self._texts.resolve_tiles(text, tiles, self.encode_text, truncate=truncate)
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

    def _encode_pixels(
        self, pixels: Float[Tensor, "b 3 h w"], generator: torch.Generator | None, *, vae_map: bool = False
    ) -> tuple[Float[Tensor, "_b _c _h _w"], Float[Tensor, "_b _d _p _q"] | None]:
        return encode(
            self.vae,
            pixels,
            self.options,
            multiple=self.layout.multiple,
            generator=generator,
            vae_map=vae_map,
        )

    def _extract(
        self, latents: Tensor, text: Conditioning, size: tuple[int, int], *, names_vary: bool = False
    ) -> Features:
        """Args: as `extract`; `names_vary` keeps the names of tokens and words out of what is compiled."""
        maps, attention = self.levels(latents, text, self.passes, image_size=size)
        join = _joined_uncompiled if names_vary else _joined
        return join(maps, attention, text, size, self.options)


def _joined(
    maps: list[Tensor],
    attention: dict[int, Tensor],
    text: Conditioning,
    size: tuple[int, int],
    options: BackboneOptions,
) -> Features:
    """The maps with the attention that is attached to them."""
    text = text.expand(len(maps[0]))
    batch, length, _ = text.embeddings.shape
    named = AttentionMaps(attention, text.tokens or (("",) * length,) * batch, text.words)
    for level in options.attach_attention:
        channels = named.at(level)
        if options.pool_attention:
            channels = named.pool(options.pool_attention, level, synonyms=options.pool_synonyms).maps
        maps[level] = join_attention(maps[level], channels, detach=options.detach_attention)
    return Features(tuple(maps), named if attention else None, (int(size[0]), int(size[1])))


_joined_uncompiled = never_compiled(_joined)  # else a call is compiled anew for each caption


def refuse_name(backbone: object) -> None:
    """Refuse the name of a model where a backbone is wanted: with which options it is to be loaded, nobody said."""
    if isinstance(backbone, str | Path):
        raise TypeError(f"a TADPBackbone is wanted; got {str(backbone)!r}. Pass TADPBackbone.from_pretrained(…) of it.")
