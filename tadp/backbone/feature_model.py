"""`FeatureModel`: the networks of a diffusion model, run with options, from latents and encoded text to features."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tadp.backbone.encoding import encode
from tadp.backbone.joining import join, join_uncompiled
from tadp.backbone.layer_keys import split_queries
from tadp.backbone.network_weights import NetworkWeights
from tadp.backbone.options import BackboneOptions, CombineTimesteps, Option, check_levels
from tadp.backbone.passes import Passes
from tadp.diffusion.families import family_of
from tadp.diffusion.vae import AnyVAE, encoder_of
from tadp.errors import ModelError
from tadp.features import FeatureInfo, Features
from tadp.files.inference import computing, without_autocast
from tadp.images.reading import crop_to_cells
from tadp.text.conditioning import Conditioning, TextAdapter
from tadp.text.stack import AnyText, text_encoder_of

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
    from diffusers.schedulers.scheduling_utils import SchedulerMixin
    from transformers import CLIPTextModel, CLIPTokenizer

Model = TypeVar("Model", bound="FeatureModel")


class FeatureModel(NetworkWeights):
    """The networks of a diffusion model, run from latents and encoded text to features.

    This is the base class of `TADPBackbone`, which adds loading and saving, reading images in every form, and choosing
    the text of a call. The VAE and the text encoder are frozen. The denoiser trains unless you call `freeze()`.

    Args:
        options: Options of the backbone, such as its timestep and the levels with attached attention.
        vae: An `AutoencoderKL` or `AutoencoderTiny`. Only its encoder is used.
        unet: The denoiser.
        text_encoder: A CLIP text model, or the `TextStack` of a model with several text encoders. None if all text is
            passed as `Conditioning`.
        tokenizer: The CLIP text model's tokenizer; None if `text_encoder` is not a CLIP text model.
        scheduler: The model's diffusers scheduler or its configuration; None if it is not known.

    Attributes:
        family: The family of the base model, which describes its architecture.
        layout: Where the denoiser's levels are, and how wide they are.
        passes: The runs of the denoiser that make up one call.

    Raises:
        ModelError: If the parts do not fit each other, or the denoiser belongs to no known family.
        ValueError: If a level, a block or a timestep in the options does not exist.
    """

    # The options can be read, not set; `with_options` gives a backbone with other options.
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
    record_heads = Option[bool]()
    record_queries = Option[bool]()
    text_length = Option[int | None]()
    pool_attention = Option[tuple[str, ...]]()
    pool_synonyms = Option[dict[str, list[str]] | None]()
    default_text = Option[str | None]()
    blocks = Option[tuple[int, ...] | None]()
    levels = Option[tuple[int, ...] | None]()

    def __init__(
        self,
        options: BackboneOptions,
        *,
        vae: "AutoencoderKL | AutoencoderTiny | AnyVAE",
        unet: nn.Module,
        text_encoder: "CLIPTextModel | AnyText | None",
        tokenizer: "CLIPTokenizer | None",
        scheduler: "SchedulerMixin | Mapping[str, Any] | None",
    ):
        super().__init__()
        self.vae = encoder_of(vae)
        self.unet = unet
        self.family = family_of(unet)
        self.layout = self.family.read_layout(unet, options.blocks)
        self.text_encoder = text_encoder_of(text_encoder, tokenizer)
        self._check_parts()
        self.text_adapter = None
        if options.text_adapter:
            self.text_adapter = TextAdapter(self.layout.text_width).to(self.device, self.dtype)
        self._set_options(options, scheduler)
        self.family.prepare(unet, self.layout)
        self.freeze_unused()
        self.vae.requires_grad_(False)
        if self.text_encoder is not None:
            self.text_encoder.requires_grad_(False)
        self.train(self.training)

    @property
    def options(self) -> BackboneOptions:
        """The options that the backbone was built with; they are saved with the model."""
        return self._options

    def with_options(self: Model, **options: Any) -> Model:
        """Return a backbone with other options that shares the VAE, U-Net, text encoder and text adapter.

        Training, freezing or moving one of the two backbones, or installing a modifier in it, also affects the other.
        `train()` sets the mode of both, and an open `conditioning()` block sets the text of both. The new backbone
        starts with the same captioner; a later `attach_captioner` only changes the backbone that it is called on. To
        get a backbone that shares nothing, use `copy.deepcopy`.

        Args:
            **options: Options of `TADPBackbone` to change. `text_adapter` cannot be changed, because it has weights of
                its own. `blocks` can only be changed to a value that selects the same blocks. `levels` freezes no
                layers here; call `unfreeze` or `freeze_unused` on the backbone that you train.

        Raises:
            TypeError: If an option is unknown or of the wrong type.
            ValueError: If an option is out of range, or the shared weights cannot be used with it.

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
                "text_adapter has weights of its own, so backbones that share weights cannot differ in it; build or "
                f"load a backbone with text_adapter={changed.text_adapter}."
            )
        if changed.blocks != self.options.blocks and self.family.read_layout(self.unet, changed.blocks) != self.layout:
            raise ValueError(
                f"the shared model is prepared for other blocks than {changed.blocks}; load another backbone with "
                f"blocks={changed.blocks}."
            )
        other = copy.copy(self)  # a shallow copy, which holds the same modules
        other._set_options(changed, self.passes.scheduler)
        other.passes = replace(other.passes, batch_size=self.passes.batch_size)
        return other

    def _set_options(self, options: BackboneOptions, scheduler: "SchedulerMixin | Mapping[str, Any] | None") -> None:
        """Set the options, after checking that this model can run with them."""
        options.check_layout(self.layout, self.vae.reduction)
        if options.record_heads and not self.family.records_heads:
            raise ValueError(f"attention per head is not recorded for {self.family.name}; pass record_heads=False.")
        if options.record_queries and not self.family.records_queries:
            raise ValueError(f"queries are not recorded for {self.family.name}; pass record_queries=False.")
        length = options.text_length or (self.text_encoder.length if self.text_encoder else None)
        self._options = options.changed(text_length=length)
        self.passes = Passes.of(self._options, scheduler, self.family.noise_kind)

    @property
    def feature_info(self) -> FeatureInfo:
        """The channels and strides of the maps, finest level first.

        Raises:
            ModelError: If attention is attached per token and the number of tokens is not known, because the backbone
                has no text encoder and the option `text_length` is not set.
        """
        options = self.options
        attached = len(options.pool_attention) or options.text_length
        if options.attached_levels and attached is None:
            raise ModelError(
                "without a text encoder the number of attention channels is unknown; pass text_length= or "
                "pool_attention=."
            )
        return FeatureInfo(
            channels=tuple(
                self.layout.channels[level] * self.passes.width + (attached or 0) * (level in options.attached_levels)
                for level in self.chosen_levels()
            ),
            reduction=tuple(self.strides[level] for level in self.chosen_levels()),
        )

    @property
    def strides(self) -> tuple[int, ...]:
        """The stride in pixels of each level of the model, finest first, whatever the option `levels` is."""
        return tuple(self.vae.reduction * cells for cells in self.layout.reduction)

    def chosen_levels(self, levels: Sequence[int] | None = None) -> tuple[int, ...]:
        """The levels whose maps a call with `levels` returns, finest first; with None, all levels of the backbone.

        Raises:
            TypeError: If `levels` is not a list of whole numbers.
            ValueError: If the backbone lacks one of the levels, or `levels` is empty, not sorted, or has a level twice.
        """
        own = tuple(self.options.levels or range(len(self.layout.channels)))
        return own if levels is None else check_levels(levels, {level: self.strides[level] for level in own})

    def encode_text(
        self, captions: str | Sequence[str], *, truncate: bool = False, mask_padding: bool = False
    ) -> Conditioning:
        """Encode captions: τ of the paper.

        Args:
            captions: One text or several; "" is the empty prompt.
            truncate: Whether captions over the token limit are cut, with a warning, instead of refused.
            mask_padding: Whether the U-Net ignores the padding after the end of a text. Stable Diffusion was trained
                without this.

        Returns:
            The encoded texts with their tokens and words. For Stable Diffusion 1.5, this is CLIP's last hidden state,
            (B, 77, 768).

        Raises:
            CaptionError: If a caption is too long and `truncate` is not set. The message gives its number of tokens.
            ModelError: If the backbone has no text encoder.
        """
        if self.text_encoder is None:
            raise ModelError("this backbone has no text encoder; pass text as Conditioning, or load one.")
        awake, running = self.awake(self.text_encoder), computing(self.text_encoder, "text encoder")
        with torch.no_grad(), without_autocast(self.device), awake, running:
            return self.text_encoder(captions, truncate=truncate, mask_padding=mask_padding)

    def latents(
        self, pixels: Float[Tensor, "b 3 h w"], generator: torch.Generator | None = None, *, vae_map: bool = False
    ) -> tuple[Float[Tensor, "_b _c _h _w"], Float[Tensor, "_b _d _p _q"] | None]:
        """Encode images to latents, and optionally return a map of the VAE encoder too.

        Args:
            pixels: Images (B, 3, H, W) in [0, 1]. They are padded to a multiple of the coarsest level's stride.
            generator: Random number generator for the option `sample_posterior`; None is torch's global one.
            vae_map: Whether to also return the VAE encoder's map at half the latents' stride.

        Returns:
            The latents, (B, C, H', W'), and the map; None in place of the map if it is not requested.
        """
        with self.awake(self.vae), computing(self.vae, "VAE"):
            return encode(
                self.vae, pixels, self.options, multiple=self.layout.multiple, generator=generator, vae_map=vae_map
            )

    def adapted(self, text: Conditioning, device: torch.device) -> Conditioning:
        """An encoded text as the denoiser takes it: in its dtype, after the text adapter, if there is one."""
        tensors = replace(text, tokens=None).to(device, self.dtype)
        return tensors if self.text_adapter is None else self.text_adapter(tensors)

    def maps_and_attention(
        self,
        latents: Float[Tensor, "b c h w"],
        text: Conditioning,
        image_size: tuple[int, int],
        *,
        levels: Sequence[int] | None = None,
    ) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """Compute the map and the attention of each level, without attaching the attention to the maps.

        Sizes may be symbolic, while a graph is exported.

        Args:
            latents: Latents without noise, (B, C, H, W).
            text: The encoded text: one text for all images, or one per image.
            image_size: (height, width) of the images before padding, in pixels, to which maps are cropped.
            levels: Levels to compute, finest first; None is all levels of the backbone.

        Returns:
            The map of each level, by level, finest first, and the attention of each recorded level. With the option
            `record_heads`, the L channels of the mean over heads are followed by those of each head. With the option
            `record_queries`, those of queries and keys follow.

        Raises:
            ValueError: If the text has a width or a length that the denoiser does not take.
            CaptionError: If the number of texts is neither one nor B.
        """
        numbers = self.chosen_levels(levels)
        self.options.check_text(text, self.layout)
        tensors = self.adapted(text, latents.device)
        one_pass = partial(
            self.family.run_once,
            self.unet,
            self.layout,
            image_size=image_size,
            record_levels=[level for level in self.options.attention_levels if level in numbers],
            record_heads=self.options.record_heads,
            record_queries=self.options.record_queries,
            levels=numbers,
        )
        maps, attention = self.passes.run(one_pass, latents, tensors.expand(latents.shape[0]), self.dtype)
        return (
            {level: self._cropped(padded, image_size, level) for level, padded in zip(numbers, maps, strict=True)},
            {level: self._cropped(padded, image_size, level) for level, padded in attention.items()},
        )

    def _cropped(self, padded: Tensor, image_size: tuple[int, int], level: int) -> Tensor:
        return crop_to_cells(padded, image_size, self.strides[level])

    def features(
        self,
        latents: Float[Tensor, "b c h w"],
        text: Conditioning,
        image_size: tuple[int, int],
        *,
        names_vary: bool = False,
        levels: Sequence[int] | None = None,
    ) -> Features:
        """Compute the features of latents: the map of each level, with attention attached where the options say so.

        Args:
            latents: Latents without noise, (B, C, H, W).
            text: The encoded text: one text for all images, or one per image.
            image_size: (height, width) of the images before padding, in pixels, to which maps are cropped.
            names_vary: Whether the strings of tokens and words change between calls. If so, they are kept out of the
                graphs of torch.compile, where they would be constants.
            levels: Levels to compute, finest first; None is all levels of the backbone.
        """
        maps, attention = self.maps_and_attention(latents, text, image_size, levels=levels)
        attach = join_uncompiled if names_vary else join
        queries = None
        if self.options.record_queries:
            unet = self.unet._modules.get("_orig_mod") or self.unet  # the inside of a compiled one
            own, encode = self.adapted(text, latents.device), partial(self._encoded_words, device=latents.device)
            attention, queries = split_queries(attention, unet, self.layout, own, encode)
        features = attach(maps, attention, text, image_size, self.strides, self.options)
        return features if queries is None else replace(features, queries=queries)

    def _encoded_words(self, words: Sequence[str], *, device: torch.device) -> Conditioning:
        return self.adapted(self.encode_text(words), device)

    def _check_parts(self) -> None:
        """Refuse a VAE or a text encoder whose output the denoiser cannot take, with a ModelError."""
        channels, expected = self.vae.config["latent_channels"], self.layout.latent_channels
        if channels != expected:
            raise ModelError(
                f"the VAE makes {channels} latent channels, but the model takes {expected}; use a pair trained "
                "together."
            )
        text = self.text_encoder
        if text is None:
            return
        if text.width != self.layout.text_width:
            raise ModelError(
                f"the text encoder is {text.width} wide, but the model takes {self.layout.text_width}; use a pair "
                "trained together."
            )
        if self.layout.pooled_width is not None and text.pooled_width != self.layout.pooled_width:
            raise ModelError(
                f"the text encoder pools a text to a width of {text.pooled_width}, but the model takes "
                f"{self.layout.pooled_width}; use a pair trained together."
            )


def refuse_name(backbone: object) -> None:
    """Refuse the name of a model in place of a backbone: a name does not say which options to load it with."""
    if isinstance(backbone, str | Path):
        name = str(backbone)
        raise TypeError(f"backbone must be a TADPBackbone; got {name!r}. Pass TADPBackbone.from_pretrained({name!r}).")
