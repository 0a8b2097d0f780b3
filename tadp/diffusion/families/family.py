"""`Family`: the description of a family of base models.

A family consists of base models with the same architecture, such as Stable Diffusion 1 and 2. Families differ in their
denoiser, where its levels are, how attention is recorded, which text encoders they use, and a few details. A `Family`
describes all of this, so that no other code depends on the model. docs/add-a-base-model.md shows how to add a family.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tadp.diffusion.families.layout import Layout
from tadp.diffusion.noise import Kind
from tadp.errors import ModelError
from tadp.files.diffusers_hooks import check_gradient, check_hooks, is_hooked
from tadp.files.inference import computing
from tadp.files.model_folder import WEIGHTS, save_weights
from tadp.files.sharding import explained_shards
from tadp.text.conditioning import Conditioning
from tadp.text.encoder_files import TextFiles
from tadp.text.stack import AnyText

PARTS = ("unet", "transformer")


@dataclass(frozen=True)
class LoraLoader:
    """How diffusers reads the LoRAs of a family.

    Attributes:
        mixin: The loader class of the family's pipeline in diffusers, such as `StableDiffusionLoraLoaderMixin`.
        options: Further arguments for the loader's method `lora_state_dict`.
        takes_alphas: Whether the loader takes LoRA's scaling factors alpha in an argument of their own.
    """

    mixin: Any
    options: Mapping[str, Any] = field(default_factory=dict)
    takes_alphas: bool = True


class Family(ABC):
    """Describes base models with one architecture: everything in which they differ from other base models.

    To add a family, write a subclass without state and pass an instance of it to `register`. A subclass must define
    `config`, `layout` and `one_pass`. Everything else has a default that suits a plain `nn.Module` with one CLIP text
    encoder.

    Attributes:
        name: The family's name in messages.
        denoiser_class: The class of the denoiser, whose name is `_class_name` in the config of a saved denoiser.
        part: The subfolder of a model folder that contains the denoiser, "unet" or "transformer".
        text_parts: The subfolders of a model folder that contain the text encoders.
        noise_kind: How noise is added if the model's scheduler is not known: "diffusion", or "flow" for flow matching.
        takes_mask: Whether the denoiser can exclude padding tokens from attention.
        records_heads: Whether `one_pass` takes `record_heads`, for attention per head.
        records_queries: Whether `one_pass` takes `record_queries`, for `Features.attend`.
        takes_any_size: Whether one exported graph works for images of all sizes. False if the denoiser computes
            something from the image's size.
        repeated: The classes of the parts that `backbone.compile` compiles and FSDP shards, such as resnets and
            transformer blocks. A pass calls them as modules, and no part contains another.
        samplers: The classes of modules that change the size of a map, which FSDP shards. A pass calls them as modules.
        lora_layers: Suffixes of the names of the denoiser's layers to which a LoRA is added in training.
    """

    name: ClassVar[str]
    denoiser_class: ClassVar[type[nn.Module]]
    part: ClassVar[Literal["unet", "transformer"]] = "unet"
    text_parts: ClassVar[tuple[str, ...]] = ("text_encoder",)
    noise_kind: ClassVar[Kind] = "diffusion"
    takes_mask: ClassVar[bool] = True
    records_heads: ClassVar[bool] = False
    records_queries: ClassVar[bool] = False
    takes_any_size: ClassVar[bool] = True
    repeated: ClassVar[tuple[type[nn.Module], ...]] = ()
    samplers: ClassVar[tuple[type[nn.Module], ...]] = ()
    lora_layers: ClassVar[tuple[str, ...]] = ()

    # What each family must define

    @abstractmethod
    def config(self, model: Any) -> Mapping[str, Any]:
        """Arguments that build a denoiser of the same shape, as JSON values."""

    @abstractmethod
    def layout(self, model: Any) -> Layout:
        """The levels of a denoiser, and the inputs it takes.

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
        timestep: int | Tensor,
        text: Conditioning,
        image_size: tuple[int, int],
        record_levels: Collection[int],
        record_heads: bool = False,
    ) -> tuple[tuple[Float[Tensor, "_b _c _h _w"], ...], dict[int, Float[Tensor, "_b _l _h _w"]]]:
        """Run the denoiser once and return the maps of its levels.

        Args:
            model: The denoiser.
            layout: Where the denoiser's levels are, as `layout` returns it. If it has `levels`, only their maps are
                needed, and a pass may end after the last layer that they and `record_levels` need.
            latents: Latents with their noise, (B, C, H, W). Height and width are multiples of `layout.multiple`.
            timestep: Diffusion timestep, an integer from 0 to 999; a tensor, (B,), if it differs between rows of the
                batch, which only happens after `backbone.batch_passes`.
            text: The encoded text, one per image, with the embedding widths in `layout`.
            image_size: (height, width) of the images in pixels, before padding.
            record_levels: Levels at which attention is recorded. Recording must not change the maps.
            record_heads: Whether to append L channels for each head. Families without `records_heads` may leave it out.

        Returns:
            The maps of `layout.wanted`, or of all levels, finest first, where the map of level k is (B, channels[k],
            H / reduction[k], W / reduction[k]). The second value has, for each recorded level, the attention of its
            cells to the text, averaged over heads and layers, (B, L, h, w) with the height and width of the map. The
            values of a cell sum to one over the tokens, or to less in joint attention, where cells also attend to the
            image.
        """

    # Which models belong to the family

    def matches(self, config: Mapping[str, Any]) -> bool:
        """Whether a denoiser of `denoiser_class` with this config belongs to the family."""
        return True

    def read_layout(self, model: Any, blocks: Sequence[int] | None = None) -> Layout:
        """The levels of a denoiser: at the blocks the caller chose, or at the default ones if `blocks` is None."""
        layout = self.layout(model) if blocks is None else self.layout_at(model, blocks)
        layout.check_names(model, self.name)
        return layout

    def layout_at(self, model: Any, blocks: Sequence[int]) -> Layout:
        """Return the layout of a denoiser whose levels are the outputs of chosen blocks.

        Args:
            model: The denoiser.
            blocks: Numbers of the blocks that become levels, counted from 0, finest level first.

        Raises:
            ValueError: If this family does not allow a choice of blocks, or a block does not exist.
        """
        raise ValueError(
            f"blocks= selects the levels of a transformer (Stable Diffusion 3, FLUX); the levels of {self.name} are "
            "fixed. Omit it."
        )

    # The pass

    def run_once(
        self,
        model: Any,
        layout: Layout,
        latents: Float[Tensor, "b c h w"],
        *,
        timestep: int | Tensor,
        text: Conditioning,
        image_size: tuple[int, int],
        record_levels: Collection[int] = (),
        record_heads: bool = False,
        record_queries: bool = False,
        levels: Sequence[int] | None = None,
    ) -> tuple[tuple[Float[Tensor, "_b _c _h _w"], ...], dict[int, Float[Tensor, "_b _l _h _w"]]]:
        """Call `one_pass`, and check its result against the layout.

        The arguments are those of `one_pass`, with the whole `layout`, and `levels`: the levels whose maps are
        returned, finest first, which include `record_levels`. None is all levels.

        Raises:
            ModelError: If the number, channels or sizes of the maps differ from the layout, or attention is missing.
            ValueError: If the text has a mask of its padding and the family does not take one.
        """
        if text.mask is not None and not self.takes_mask:
            raise ValueError(f"the attention of {self.name} takes no text mask; encode the text without mask_padding.")
        model, kind = model._modules.get("_orig_mod", model), self.denoiser_class  # the inside of a compiled one
        if not isinstance(model, kind):
            refuse_adapter(model)
            raise ModelError(f"the {self.part} was replaced by a {type(model).__name__}; pass a {kind.__name__}.")
        if not torch.compiler.is_compiling():
            self.check_unchanged(model, layout)
            check_hooks(model, self.uncalled(model), self.part)
        layout = layout.only(levels, record_levels)
        with computing(model, self.part), self._explained(model):
            maps, attention = self.one_pass(
                model,
                layout,
                latents,
                timestep=timestep,
                text=text,
                image_size=image_size,
                record_levels=record_levels,
                **({"record_heads": True} if record_heads else {}),
                **({"record_queries": True} if record_queries else {}),
            )
        if layout.levels is not None and len(maps) == len(layout.channels):  # a family that always computes all
            maps = tuple(maps[level] for level in layout.levels)
        layout.check_pass(
            maps,
            attention,
            latents,
            tokens=text.embeddings.shape[1],
            record_levels=tuple(record_levels),
            record_heads=record_heads,
            record_queries=record_queries,
            family=self.name,
        )
        compiles = torch.compiler.is_compiling()
        if not compiles and maps[0].requires_grad and any(map(is_hooked, model.modules())):
            for level in maps:
                level.register_hook(lambda _: check_gradient(model, self.part))
        return maps, attention

    def prepare(self, model: Any, layout: Layout) -> None:
        """Make a denoiser able to record attention, and freeze the layers that a pass never runs."""
        self.install_recording(model, layout)
        self.freeze_unused(model, layout)

    def freeze_unused(self, model: Any, layout: Layout) -> None:
        """Freeze the layers on which no map depends, so that DDP does not wait for their gradients.

        Args:
            model: The denoiser.
            layout: Where the levels are; if it has `levels`, layers that only other levels need are frozen, too.
        """
        for module in self.unused(model, layout):
            module.requires_grad_(False)

    def install_recording(self, model: Any, layout: Layout) -> None:
        """Install attention processors that can record. The default is for a denoiser that can already record."""
        return

    def check_unchanged(self, model: Any, layout: Layout) -> None:
        """Raise a ModelError if other code has changed the denoiser since `prepare`, so that maps would be wrong."""
        return

    def unused(self, model: Any, layout: Layout) -> Iterable[nn.Module]:
        """Layers that a pass never runs: those after the last map and the last attention in `layout`."""
        return ()

    def uncalled(self, model: Any) -> Iterable[nn.Module]:
        """Modules that a pass does not call, because it calls their parts, so that hooks on them never run."""
        return (model,)

    def offload_blocks(self, model: Any) -> list[nn.Module]:
        """The `repeated` modules that a pass always calls, which `group_offload="block_level"` moves as a whole."""
        uncalled = list(self.uncalled(model))
        return [part for part in model.modules() if isinstance(part, self.repeated) and part not in uncalled]

    def parts_to_shard(self, model: Any) -> list[nn.Module]:
        """The `repeated` and `samplers` modules that a pass always calls, which FSDP can shard one by one."""
        samplers = [part for part in model.modules() if isinstance(part, self.samplers)]
        return self.offload_blocks(model) + samplers

    def _explained(self, model: Any) -> AbstractContextManager[None]:
        if torch.compiler.is_compiling():
            return nullcontext()
        return explained_shards(model, self.uncalled(model), self.part)

    def denoise(
        self,
        model: Any,
        noisy: Float[Tensor, "b c h w"],
        timesteps: Tensor,
        embeddings: Float[Tensor, "b l d"],
    ) -> Float[Tensor, "b c h w"]:
        """The prediction of the whole denoiser for noisy latents, which `tadp.personalize` trains.

        Raises:
            ModelError: If `tadp.personalize` does not train this family.
        """
        raise ModelError(f"tadp.personalize does not train {self.name}; it takes Stable Diffusion 1.x and 2.x.")

    # Training

    def set_checkpointing(self, model: Any, enabled: bool) -> None:
        """Turn gradient checkpointing on or off.

        Raises:
            ModelError: If `enabled` is true and the family does not support gradient checkpointing.
        """
        if enabled:
            raise ModelError(
                f"{self.name} does not support gradient checkpointing. Train with smaller batches or images."
            )

    def is_checkpointed(self, model: Any) -> bool:
        """Whether gradient checkpointing is on."""
        return False

    def add_adapter(self, model: Any, config: Any) -> None:
        """Add a LoRA to a denoiser; `config` is a peft configuration."""
        from peft import inject_adapter_in_model

        inject_adapter_in_model(config, model)

    def lora(self, model: Any) -> LoraLoader:
        """How LoRA files of the family are read.

        Raises:
            ModelError: If tadp does not read LoRA files for this family.
        """
        raise ModelError(f"tadp does not read LoRA files for {self.name}.")

    # Files

    def build(self, config: Mapping[str, Any]) -> nn.Module:
        """Build a denoiser from its config. Loading calls this on the meta device, where tensors have no values."""
        return self.denoiser_class(**{name: value for name, value in config.items() if not name.startswith("_")})

    def save(self, model: Any, folder: Path) -> None:
        """Write a denoiser's config and weights."""
        folder.mkdir(parents=True, exist_ok=True)
        config = {"_class_name": self.denoiser_class.__name__} | dict(self.config(model))
        (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
        save_weights(model, folder / f"{WEIGHTS[self.part]}.safetensors")

    def text(self, files: TextFiles, model: Any) -> AnyText:
        """The text encoder or encoders in a model folder.

        Args:
            files: The reader of the folder's text encoders.
            model: The denoiser that the text is for.
        """
        return files.clip(self.text_parts[0])

    def vae_dtype(self, config: Mapping[str, Any], dtype: torch.dtype) -> torch.dtype:
        """The dtype of the VAE when the rest of the model uses `dtype`; `config` is the VAE's config."""
        return dtype

    def native_cells(self, model: Any) -> int | None:
        """The height and width of the latents that a model was trained on; None if unknown."""
        return None


class DiffusersFamily(Family):
    """A family whose denoiser is a diffusers model: diffusers provides the config, files and checkpointing."""

    lora_layers = ("to_q", "to_k", "to_v", "to_out.0")
    recorder_class: ClassVar[type | None] = None  # the class of the processors that `install_recording` installs

    def check_unchanged(self, model: Any, layout: Layout) -> None:
        """Refuse a denoiser in which any attention processor was replaced, also one that does not record."""
        kind = self.recorder_class
        for name, processor in model.attn_processors.items() if kind else ():
            layer = name.removesuffix(".processor").replace("_orig_mod.", "")  # that of a compiled block
            if not (kind and isinstance(processor, kind) and processor.level == layout.attention_layers.get(layer)):
                raise ModelError(
                    f"the attention processors of the {self.part} were replaced (by a {type(processor).__name__} in "
                    f"{layer}), as fuse_qkv_projections, IP adapters and attention slicing do; load the model again."
                )

    def config(self, model: Any) -> Mapping[str, Any]:
        """The model's own config."""
        return model.config

    def build(self, config: Mapping[str, Any]) -> nn.Module:
        """Build a denoiser with diffusers."""
        kind: Any = self.denoiser_class
        return kind.from_config(config)

    def save(self, model: Any, folder: Path) -> None:
        """Write diffusers' config, and the weights to one file."""
        model.save_config(folder)
        save_weights(model, folder / f"{WEIGHTS[self.part]}.safetensors")

    def set_checkpointing(self, model: Any, enabled: bool) -> None:
        """Turn diffusers' gradient checkpointing on or off."""
        (model.enable_gradient_checkpointing if enabled else model.disable_gradient_checkpointing)()

    def is_checkpointed(self, model: Any) -> bool:
        """Whether diffusers' gradient checkpointing is on."""
        return model.is_gradient_checkpointing

    def add_adapter(self, model: Any, config: Any) -> None:
        """Add a LoRA with diffusers, which can fuse it later."""
        model.add_adapter(config)

    def native_cells(self, model: Any) -> int | None:
        """The config's `sample_size`; the smaller side if it has two."""
        size = model.config.get("sample_size")
        return min(size) if isinstance(size, (list, tuple)) else size


def refuse_adapter(model: nn.Module) -> None:
    """Refuse a denoiser inside a model of peft, with a ModelError."""
    if "base_model" in model._modules:
        raise ModelError(
            f"the denoiser is inside a {type(model).__name__} of peft. Merge the adapter first: backbone.unet = "
            "backbone.unet.merge_and_unload()."
        )
