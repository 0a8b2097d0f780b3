"""What a family of base models is, and which families there are.

Base models differ in their denoiser, where its levels are, how attention is recorded, which text encoders belong to
them and a few smaller things. A `Family` holds all of it, so that nothing else asks which model it has.
docs/add-a-base-model.md adds one.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tadp.diffusion.noise import Kind
from tadp.errors import ModelError
from tadp.files.model_folder import WEIGHTS, save_weights
from tadp.text.conditioning import Conditioning
from tadp.text.encoder_files import TextFiles
from tadp.text.stack import AnyText

PARTS = ("unet", "transformer")


@dataclass(frozen=True)
class Layout:
    """Where the levels of a denoiser are, and what it takes; level 0 is the finest.

    Attributes:
        channels: Channels of each level's map.
        reduction: Latent cells per cell of each level: (1, 2, 4, 8) for Stable Diffusion 1.x.
        taps: Name of the module whose output becomes the map of each level.
        attention_layers: Level of each attention layer that can be recorded, by the layer's name.
        latent_channels: Channels of the latents: 4, or 16 since Stable Diffusion 3.
        text_width: D, the width of a token's embedding.
        pooled_width: P, the width of the pooled embedding of a text; None if the denoiser takes none.
    """

    channels: tuple[int, ...]
    reduction: tuple[int, ...]
    taps: tuple[str, ...]
    attention_layers: Mapping[str, int]
    latent_channels: int
    text_width: int
    pooled_width: int | None = None

    def __str__(self) -> str:
        return f"channels {self.channels}, latent_channels {self.latent_channels}, text_width {self.text_width}"

    @property
    def attention_levels(self) -> tuple[int, ...]:
        """Levels at which attention to the text can be recorded."""
        return tuple(sorted(set(self.attention_layers.values())))

    @property
    def multiple(self) -> int:
        """Latent height and width are padded to a multiple of this."""
        return max(self.reduction)


@dataclass(frozen=True)
class LoraLoader:
    """How diffusers reads the LoRAs of a family.

    Attributes:
        mixin: The loader of the family's pipeline, such as `StableDiffusionLoraLoaderMixin`.
        options: Further arguments of its `lora_state_dict`.
        takes_alphas: Whether its loader takes alphas apart from the weights.
    """

    mixin: Any
    options: Mapping[str, Any] = field(default_factory=dict)
    takes_alphas: bool = True


class Family(ABC):
    """Everything that differs between base models. A subclass has no state; one object of it goes to `register`.

    `config`, `layout` and `one_pass` must be written. The rest has a default that suits a plain `nn.Module` with one
    CLIP text encoder.

    Attributes:
        name: What messages call the family.
        denoiser_class: Class of the denoiser. Its name stands in the config of a saved denoiser.
        part: Folder of the denoiser in a model's folder.
        text_parts: Folders of the text encoders.
        noise_kind: How noise is added where a model's scheduler is not known.
        takes_mask: Whether tokens of a text can be left out of attention.
        takes_any_size: Whether one exported graph serves images of all sizes. False if a pass computes something from
            the size.
        lora_layers: Ends of the names of the layers that get a LoRA with `tune="lora"`.
    """

    name: ClassVar[str]
    denoiser_class: ClassVar[type[nn.Module]]
    part: ClassVar[Literal["unet", "transformer"]] = "unet"
    text_parts: ClassVar[tuple[str, ...]] = ("text_encoder",)
    noise_kind: ClassVar[Kind] = "diffusion"
    takes_mask: ClassVar[bool] = True
    takes_any_size: ClassVar[bool] = True
    lora_layers: ClassVar[tuple[str, ...]] = ()

    # What each family must say

    @abstractmethod
    def config(self, model: Any) -> Mapping[str, Any]:
        """Arguments that build a denoiser of the same shape, as JSON has them."""

    @abstractmethod
    def layout(self, model: Any) -> Layout:
        """Levels of a denoiser, and what it takes.

        Raises:
            ModelError: If the denoiser is not laid out like the models of the family.
        """

    @abstractmethod
    def one_pass(
        self,
        model: Any,
        layout: Layout,
        latents: Float[Tensor, "b c h w"],
        *,
        timestep: int,
        text: Conditioning,
        image_size: tuple[int, int],
        record_levels: Collection[int],
    ) -> tuple[tuple[Float[Tensor, "_b _c _h _w"], ...], dict[int, Float[Tensor, "_b _l _h _w"]]]:
        """Run the denoiser once; see `run_once`, which calls it. What is recorded must not change the maps."""

    # Which models belong to it

    def matches(self, config: Mapping[str, Any]) -> bool:
        """Whether a denoiser of `denoiser_class` with this config belongs to the family."""
        return True

    def read_layout(self, model: Any, blocks: Sequence[int] | None = None) -> Layout:
        """Levels of a denoiser, at blocks of the caller's choice where `blocks` is not None."""
        return self.layout(model) if blocks is None else self.layout_at(model, blocks)

    def layout_at(self, model: Any, blocks: Sequence[int]) -> Layout:
        """Levels at other blocks than `layout` takes.

        Args:
            model: A denoiser.
            blocks: Numbers of the blocks that become levels, finest first.

        Raises:
            ValueError: If the levels of the family cannot be chosen, or a block does not exist.
        """
        raise ValueError(
            f"blocks chooses among those of a transformer (Stable Diffusion 3, FLUX); the levels of {self.name} are "
            "fixed. Leave it out."
        )

    # The pass

    def run_once(
        self,
        model: Any,
        layout: Layout,
        latents: Float[Tensor, "b c h w"],
        *,
        timestep: int,
        text: Conditioning,
        image_size: tuple[int, int],
        record_levels: Collection[int] = (),
    ) -> tuple[tuple[Float[Tensor, "_b _c _h _w"], ...], dict[int, Float[Tensor, "_b _l _h _w"]]]:
        """Run a denoiser once and keep its levels.

        Args:
            model: A denoiser that was given to `prepare`.
            layout: Its own layout.
            latents: (B, C, H, W), height and width multiples of `layout.multiple`.
            timestep: Diffusion time, 0 to 999.
            text: One text per image, of the layout's widths.
            image_size: (height, width) in pixels, which some models receive.
            record_levels: Levels whose attention is kept.

        Returns:
            The maps, finest first, (B, channels[k], H / reduction[k], W / reduction[k]); and for each recorded level
            the attention of its cells to the text, averaged over heads and layers, (B, L, h, w).

        Raises:
            ValueError: If the text has a mask and the family takes none.
        """
        if text.mask is not None and not self.takes_mask:
            raise ValueError(f"the attention of {self.name} takes no mask of the text; encode it without mask_padding.")
        return self.one_pass(
            model,
            layout,
            latents,
            timestep=timestep,
            text=text,
            image_size=image_size,
            record_levels=record_levels,
        )

    def prepare(self, model: Any, layout: Layout) -> None:
        """Make a denoiser able to record attention, and freeze the layers that a pass never runs."""
        self.install_recording(model, layout)
        self.freeze_unused(model, layout)

    def freeze_unused(self, model: Any, layout: Layout) -> None:
        """Stop gradients of the layers that a pass never runs, so that DDP does not wait for them."""
        for module in self.unused(model, layout):
            module.requires_grad_(False)

    def install_recording(self, model: Any, layout: Layout) -> None:
        """Put processors into a denoiser that can record attention; by default it can already."""
        return

    def unused(self, model: Any, layout: Layout) -> Iterable[nn.Module]:
        """Layers that a pass never runs."""
        return ()

    def denoise(
        self,
        model: Any,
        noisy: Float[Tensor, "b c h w"],
        timesteps: Tensor,
        embeddings: Float[Tensor, "b l d"],
    ) -> Float[Tensor, "b c h w"]:
        """What the whole denoiser predicts of noisy latents, for `tadp.personalize`.

        Raises:
            ModelError: If the family is not trained by denoising here.
        """
        raise ModelError(f"tadp.personalize does not train {self.name}; it takes Stable Diffusion 1.x and 2.x.")

    # Training

    def set_checkpointing(self, model: Any, enabled: bool) -> None:
        """Switch gradient checkpointing.

        Raises:
            ModelError: If the family has none and it is switched on.
        """
        if enabled:
            raise ModelError(f"{self.name} has no gradient checkpointing; train with smaller batches or images.")

    def is_checkpointed(self, model: Any) -> bool:
        """Whether gradient checkpointing is on."""
        return False

    def add_adapter(self, model: Any, config: Any) -> None:
        """Put a LoRA into a denoiser; `config` is peft's."""
        from peft import inject_adapter_in_model

        inject_adapter_in_model(config, model)

    def lora(self, model: Any) -> LoraLoader:
        """How files of LoRAs are read.

        Raises:
            ModelError: If LoRA files of the family are not read.
        """
        raise ModelError(f"tadp reads no LoRA files for {self.name}.")

    # Files

    def build(self, config: Mapping[str, Any]) -> nn.Module:
        """A denoiser from its config; on the meta device when a model is loaded, so without values."""
        return self.denoiser_class(**{name: value for name, value in config.items() if not name.startswith("_")})

    def save(self, model: Any, folder: Path) -> None:
        """Write a denoiser's config and weights."""
        folder.mkdir(parents=True, exist_ok=True)
        config = {"_class_name": self.denoiser_class.__name__} | dict(self.config(model))
        (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
        save_weights(model, folder / f"{WEIGHTS[self.part]}.safetensors")

    def text(self, files: TextFiles, model: Any) -> AnyText:
        """The text encoder, or encoders, in a model's folder.

        Args:
            files: Reads the encoders.
            model: The denoiser that reads the text.
        """
        return files.clip(self.text_parts[0])

    def vae_dtype(self, config: Mapping[str, Any], dtype: torch.dtype) -> torch.dtype:
        """What the VAE computes in where the rest computes in `dtype`; `config` is the VAE's."""
        return dtype

    def native_cells(self, model: Any) -> int | None:
        """Side of the latents that a model was trained on; None if it is not known."""
        return None


class DiffusersFamily(Family):
    """A family whose denoiser is a model of diffusers, which brings its config, files and checkpointing with it."""

    lora_layers = ("to_q", "to_k", "to_v", "to_out.0")

    def config(self, model: Any) -> Mapping[str, Any]:
        """The model's own."""
        return model.config

    def build(self, config: Mapping[str, Any]) -> nn.Module:
        """By diffusers."""
        kind: Any = self.denoiser_class
        return kind.from_config(config)

    def save(self, model: Any, folder: Path) -> None:
        """By diffusers, in several files where a model is large."""
        model.save_pretrained(folder)

    def set_checkpointing(self, model: Any, enabled: bool) -> None:
        """By diffusers."""
        if enabled:
            model.enable_gradient_checkpointing()
        else:
            model.disable_gradient_checkpointing()

    def is_checkpointed(self, model: Any) -> bool:
        """Whether diffusers' gradient checkpointing is on."""
        return model.is_gradient_checkpointing

    def add_adapter(self, model: Any, config: Any) -> None:
        """By diffusers, which can fuse it later."""
        model.add_adapter(config)

    def native_cells(self, model: Any) -> int | None:
        """The `sample_size` of the config, the smaller side of two."""
        size = model.config.get("sample_size")
        return min(size) if isinstance(size, list | tuple) else size


_FAMILIES: dict[str, Family] = {}


def register(family: Family) -> None:
    """Let tadp read the models of a family: in `TADPBackbone(unet=…)`, `from_pretrained` and everything above.

    Where several families take a model, the one registered last gets it. A family of the same name is replaced.

    Args:
        family: An object of a subclass of `Family`.

    Raises:
        TypeError: If it is not one, or its `denoiser_class` is not a module's.
    """
    if not isinstance(family, Family):
        raise TypeError(f"a family is an object of a subclass of Family; got {family!r}.")
    if not issubclass(family.denoiser_class, nn.Module) or family.part not in PARTS:
        raise TypeError(
            f"denoiser_class is a class of nn.Module and part one of {', '.join(PARTS)}; got {family.denoiser_class!r} "
            f"and {family.part!r}."
        )
    _FAMILIES.pop(family.name, None)
    _FAMILIES[family.name] = family


def family_of(model: nn.Module) -> Family:
    """The family of a denoiser.

    Raises:
        ModelError: If no known family takes it; the message lists them.
    """
    for family in reversed(_FAMILIES.values()):
        if isinstance(model, family.denoiser_class) and family.matches(family.config(model)):
            return family
    raise ModelError(f"tadp cannot read a {type(model).__name__}; it reads {known_families()}.")


def family_of_config(config: Mapping[str, Any], where: Path) -> Family:
    """The family of a saved denoiser.

    Args:
        config: The denoiser's, with its `_class_name`.
        where: Its folder, for the message.

    Raises:
        ModelError: If no known family takes it; the message lists them.
    """
    name = config.get("_class_name")
    for family in reversed(_FAMILIES.values()):
        if family.denoiser_class.__name__ == name and family.matches(config):
            return family
    raise ModelError(
        f"{where} holds a {name!r}; tadp reads {known_families()}. tadp.diffusion.families.register adds a family."
    )


def known_families() -> str:
    """Names of the families and the classes of their denoisers, for messages.

    Example:
        >>> known_families().startswith("Stable Diffusion 1.x and 2.x (UNet2DConditionModel), Stable Diffusion XL")
        True
    """
    return ", ".join(f"{family.name} ({family.denoiser_class.__name__})" for family in _FAMILIES.values())
