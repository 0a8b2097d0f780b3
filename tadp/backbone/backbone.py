"""TADPBackbone: images and captions in, multi-scale features and word-level attention out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tadp.backbone.attached_captioner import Attached, CaptionFunction, attachable
from tadp.backbone.checks import check_latents, check_levels, check_parts, check_text, level_set
from tadp.backbone.encoding import encode
from tadp.backbone.passes import CombineTimesteps, make_passes
from tadp.backbone.text_source import Share, Text, TextKey, current_text, share_text, use_text
from tadp.backbone.tiling import tiled
from tadp.diffusion.attention import attach_attention as join_attention
from tadp.diffusion.families import family_of
from tadp.diffusion.loading.networks import load_text_adapter
from tadp.diffusion.loading.parts import load_parts
from tadp.diffusion.loading.saving import save_parts
from tadp.diffusion.vae import AnyVAE, encoder_of
from tadp.errors import CaptionError, ModelError
from tadp.features import AttentionMaps, FeatureInfo, Features
from tadp.files.atomic import replace_folder
from tadp.files.hub import HubOptions, Source
from tadp.files.model_folder import model_folder
from tadp.images.reading import ImageLike, crop_to_cells, to_tensor
from tadp.language.matching import Synonyms, checked_names
from tadp.text.conditioning import Conditioning, TextAdapter
from tadp.text.encoder import check_captions
from tadp.text.stack import AnyText, text_encoder_of
from tadp.training.parameter_groups import decay_groups, first_parameter

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
    from diffusers.schedulers.scheduling_utils import SchedulerMixin
    from transformers import CLIPTextModel, CLIPTokenizer

Function = TypeVar("Function", bound=Callable[..., Any])


def _never_compiled(function: Function) -> Function:
    return cast(Function, torch.compiler.disable(function))


class TADPBackbone(nn.Module):
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
        super().__init__()
        self.vae = encoder_of(vae)
        self.unet = unet
        self.blocks = None if blocks is None else tuple(blocks)
        self.family = family_of(unet)
        self.layout = self.family.read_layout(unet, self.blocks)
        self._source: Source | None = None
        self.default_text = default_text
        self._captioner: Attached | None = None
        self._text_key = TextKey()
        self._text_share: Share | None = None
        self.text_encoder = text_encoder_of(text_encoder, tokenizer)
        self.text_adapter = None
        if text_adapter:
            self.text_adapter = TextAdapter(self.layout.text_width).to(self.device, self.dtype)
        self.passes = make_passes(
            timestep,
            combine=combine_timesteps,
            noise_samples=noise_samples,
            noise_seed=noise_seed,
            scheduler=scheduler,
            kind=self.family.noise_kind,
            scale_latents=scale_latents,
        )
        self.scale_latents = scale_latents
        self.sample_posterior = sample_posterior
        self.imagenet_pixels = imagenet_pixels
        self.attach_attention = level_set(attach_attention, name="attach_attention")
        self.detach_attention = detach_attention
        self.record_attention = level_set(record_attention, name="record_attention")
        self.text_length = text_length or (self.text_encoder.length if self.text_encoder else None)
        self.pool_attention, self.pool_synonyms = checked_names(pool_attention, pool_synonyms)
        check_parts(self.vae, self.layout, self.text_encoder)
        check_levels((*self.attach_attention, *self.record_attention), self.layout, self.vae.reduction)
        self.family.prepare(unet, self.layout)
        self.vae.requires_grad_(False)
        if self.text_encoder is not None:
            self.text_encoder.requires_grad_(False)
        self.train(self.training)

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
        parts, saved = load_parts(
            folder,
            dtype=dtype,
            given=given,
            lora=lora,
            lora_scale=lora_scale,
            hub=hub,
            load_t5=load_t5,
        )
        backbone = cls(**(parts | saved | options))
        backbone._source = Source.of(name, folder, revision=revision)
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
                options=self.options,
            )

    @property
    def source(self) -> Source | None:
        """What `from_pretrained` loaded, whatever was trained or installed since; None for a backbone made of parts."""
        return self._source

    @property
    def options(self) -> dict[str, Any]:
        """The constructor's options, as saved with the model."""
        return {
            **self.passes.options,
            "scale_latents": self.scale_latents,
            "sample_posterior": self.sample_posterior,
            "imagenet_pixels": self.imagenet_pixels,
            "attach_attention": list(self.attach_attention),
            "detach_attention": self.detach_attention,
            "record_attention": list(self.record_attention),
            "text_adapter": self.text_adapter is not None,
            "text_length": self.text_length,
            "pool_attention": list(self.pool_attention),
            "pool_synonyms": self.pool_synonyms,
            "default_text": self.default_text,
            "blocks": None if self.blocks is None else list(self.blocks),
        }

    @property
    def timestep(self) -> int | tuple[int, ...]:
        """Diffusion time at which features are read: one, or several."""
        return self.passes.timestep

    @property
    def feature_info(self) -> FeatureInfo:
        """Channels and strides of the maps, finest first.

        Raises:
            ModelError: If attention is attached and neither a text encoder nor `text_length` says how many tokens.
        """
        attached = len(self.pool_attention) or self.text_length
        if self.attach_attention and attached is None:
            raise ModelError(
                "without a text encoder the number of attention channels is unknown; pass text_length= or "
                "pool_attention=."
            )
        return FeatureInfo(
            channels=tuple(
                channels * self.passes.width + (attached or 0) * (level in self.attach_attention)
                for level, channels in enumerate(self.layout.channels)
            ),
            reduction=tuple(self.vae.reduction * cells for cells in self.layout.reduction),
        )

    @property
    def device(self) -> torch.device:
        """Where the U-Net is."""
        return first_parameter(self.unet).device

    @property
    def dtype(self) -> torch.dtype:
        """What the U-Net computes in."""
        return first_parameter(self.unet).dtype

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

    def encode_text(
        self, captions: str | Sequence[str], *, truncate: bool = False, mask_padding: bool = False
    ) -> Conditioning:
        """τ of the paper: CLIP's last hidden state, (B, 77, 768) for Stable Diffusion 1.5, and what its tokens are.

        Args:
            captions: One text or several; "" is the empty prompt.
            truncate: Cut captions over the limit, with a warning, rather than refuse them.
            mask_padding: Attend to real tokens alone; Stable Diffusion was trained without.

        Raises:
            CaptionError: If a caption is too long; the message counts its tokens.
            ModelError: If the backbone has no text encoder.
        """
        if self.text_encoder is None:
            raise ModelError("this backbone has no text encoder; pass text as Conditioning, or load one.")
        with torch.no_grad():
            return self.text_encoder(captions, truncate=truncate, mask_padding=mask_padding)

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
        return self._extract(
            latents, self._text_or_default(text, len(latents), truncate=truncate), size, names_vary=True
        )

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
            encoded = self._text_or_default(text, len(pixels), pixels=pixels, truncate=truncate)
        latents, half = self._encode_pixels(pixels, generator, vae_map=vae_map)
        size = pixels.shape[2], pixels.shape[3]
        features = self._extract(latents, encoded, size, names_vary=not isinstance(text, Conditioning))
        if half is None:
            return features
        return replace(features, vae_map=crop_to_cells(half, size, self.vae.reduction // 2))

    tiled = tiled  # features of an image too large for one pass

    @contextmanager
    def conditioning(self, text: Text) -> Iterator[None]:
        """Within the block, `backbone(images)` takes this text: for frameworks that pass images alone.

        Each thread has its own. Under `nn.DataParallel`, captions are split as the images are.

        Args:
            text: One caption for each image of the batch, one string for all, or `Conditioning`.

        Raises:
            CaptionError: If there is no text.
        """
        with use_text(self._text_key, text):
            yield

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
        self._captioner = attachable(captioner, **options)
        return self

    @property
    def captioner(self) -> CaptionFunction | None:
        """The captioner that is attached, if there is one."""
        return None if self._captioner is None else self._captioner.captioner

    def train(self, mode: bool = True) -> "TADPBackbone":
        """Set training mode; the frozen VAE and text encoder stay in evaluation mode."""
        super().train(mode)
        self.vae.eval()
        if self.text_encoder is not None:
            self.text_encoder.eval()
        return self

    def freeze(self) -> "TADPBackbone":
        """Stop the U-Net's gradients, for a head on fixed features; the text adapter, if any, still trains."""
        self.unet.requires_grad_(False)
        return self

    def unfreeze(self) -> "TADPBackbone":
        """Train the U-Net again, all but the layers after the last map, which never run."""
        self.unet.requires_grad_(True)
        self.family.freeze_unused(self.unet, self.layout)
        return self

    def enable_gradient_checkpointing(self, enabled: bool = True) -> "TADPBackbone":
        """Trade time for memory in training: the U-Net's blocks are run again during backward."""
        self.family.set_checkpointing(self.unet, enabled)
        return self

    def parameter_groups(
        self, lr: float, *, unet_scale: float = 0.1, weight_decay: float = 5e-3
    ) -> list[dict[str, Any]]:
        """Groups for an optimiser: what trains, by learning rate, without decay on norms and biases.

        Args:
            lr: Of the text adapter; the U-Net gets `unet_scale` of it.
            unet_scale: 0.1 in the released segmentation code.
            weight_decay: Of matrices and kernels; 5e-3 in the released segmentation code.
        """
        groups = decay_groups(self.unet, lr=lr * unet_scale, weight_decay=weight_decay)
        if self.text_adapter is not None:
            groups += decay_groups(self.text_adapter, lr=lr, weight_decay=weight_decay)
        return groups

    def _encode_pixels(
        self, pixels: Float[Tensor, "b 3 h w"], generator: torch.Generator | None, *, vae_map: bool = False
    ) -> tuple[Float[Tensor, "_b _c _h _w"], Float[Tensor, "_b _d _p _q"] | None]:
        return encode(
            self.vae,
            pixels,
            multiple=self.layout.multiple,
            imagenet_pixels=self.imagenet_pixels,
            sample=self.sample_posterior,
            scale=self.scale_latents,
            generator=generator,
            vae_map=vae_map,
        )

    @_never_compiled  # of strings, and a compiled call would keep the first text that it saw
    def _text_or_default(
        self, text: Text | None, count: int, *, pixels: Tensor | None = None, truncate: bool = False
    ) -> Conditioning:
        if text is None:
            text = current_text(self._text_key) if self._text_share is None else self._text_share.of(count)
        if text is None and self._captioner is not None:
            text, truncate = self._captioner.describe(pixels), True
        if text is None:
            text = self._default()
        if isinstance(text, Conditioning):
            return text
        captions = check_captions(text)
        if not isinstance(text, str) and len(captions) != count:
            raise CaptionError(
                f"{count} images but {len(captions)} captions; give one an image, or a single string for all."
            )
        return self.encode_text(captions, truncate=truncate)

    def _default(self) -> str:
        if self.default_text is None:
            raise CaptionError(
                "no text for these images, and default_text is None. Pass captions, call within `with "
                "backbone.conditioning(captions):`, or attach a captioner: backbone.attach_captioner('tadp-tiny')."
            )
        return self.default_text

    def _replicate_for_data_parallel(self) -> "TADPBackbone":
        replica: Any = super()._replicate_for_data_parallel()
        replica._text_share = share_text(self._text_key)
        return replica

    def _extract(
        self, latents: Tensor, text: Conditioning, size: tuple[int, int], *, names_vary: bool = False
    ) -> Features:
        """Args: as `extract`; `names_vary` keeps the names of tokens and words out of what is compiled."""
        maps, attention = self._cropped_levels(latents, text, size)
        joined = self._joined_uncompiled if names_vary else self._joined
        return joined(maps, attention, text, size)

    def _cropped_levels(
        self, latents: Tensor, text: Conditioning, size: tuple[int, int]
    ) -> tuple[list[Tensor], dict[int, Tensor]]:
        """The maps and the attention of each level, cropped, apart, and nothing but tensors; also of symbolic sizes."""
        conditioning = self._denoiser_text(text, latents)
        one_pass = partial(
            self.family.run_once,
            self.unet,
            self.layout,
            text=conditioning,
            image_size=size,
            record_levels=sorted({*self.attach_attention, *self.record_attention}),
        )
        maps, attention = self.passes.run(one_pass, latents, self.dtype)
        strides = [self.vae.reduction * cells for cells in self.layout.reduction]
        maps = [crop_to_cells(one, size, stride) for one, stride in zip(maps, strides, strict=True)]
        return maps, {level: crop_to_cells(one, size, strides[level]) for level, one in attention.items()}

    def _joined(
        self, maps: list[Tensor], attention: dict[int, Tensor], text: Conditioning, size: tuple[int, int]
    ) -> Features:
        """The maps with the attention that is attached to them."""
        named = _named(attention, text.expand(len(maps[0])))
        for level in self.attach_attention:
            maps[level] = join_attention(
                maps[level], self._attached_channels(named, level), detach=self.detach_attention
            )
        return Features(tuple(maps), named if attention else None, (int(size[0]), int(size[1])))

    _joined_uncompiled = _never_compiled(_joined)  # else a call is compiled anew for each caption

    def _denoiser_text(self, conditioning: Conditioning, latents: Tensor) -> Conditioning:
        """What of a text the denoiser takes: tensors, without names."""
        check_text(
            conditioning,
            layout=self.layout,
            is_attached=bool(self.attach_attention),
            is_pooled=bool(self.pool_attention),
            text_length=self.text_length,
        )
        tensors = Conditioning(conditioning.embeddings, mask=conditioning.mask, pooled=conditioning.pooled)
        conditioning = tensors.to(latents.device, self.dtype)
        if self.text_adapter is not None:
            conditioning = self.text_adapter(conditioning)
        return conditioning.expand(latents.shape[0])

    def _attached_channels(self, attention: AttentionMaps, level: int) -> Float[Tensor, "b l h w"]:
        """What is attached at a level: a channel a name, or a channel a token."""
        if self.pool_attention:
            return attention.pool(self.pool_attention, level, synonyms=self.pool_synonyms).maps
        return attention.at(level)


def _named(attention: dict[int, Tensor], conditioning: Conditioning) -> AttentionMaps:
    batch, length, _ = conditioning.embeddings.shape
    return AttentionMaps(attention, conditioning.tokens or (("",) * length,) * batch, conditioning.words)
