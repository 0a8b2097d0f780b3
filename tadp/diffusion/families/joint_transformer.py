"""The code that Stable Diffusion 3 and FLUX share: transformers that attend to image and text in one softmax."""

from abc import abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tadp.diffusion.families.family import DiffusersFamily
from tadp.diffusion.families.layout import Layout
from tadp.diffusion.transformer import PATCH, REDUCTION, chosen_taps, joint_pass, joint_taps
from tadp.errors import ModelError
from tadp.text.conditioning import Conditioning


class JointTransformerFamily(DiffusersFamily):
    """A family whose denoiser is a transformer with joint attention: one softmax covers image and text.

    Attributes:
        processor: The class of the attention processors that can record. It is called with a layer's name and the
            layer's level.
        patch_size: The patch size in latent cells that the transformer's config must have.
    """

    part = "transformer"
    noise_kind = "flow"
    takes_mask = False
    takes_any_size = False
    records_heads = True
    processor: Callable[[str, int | None], Any]
    patch_size: int

    @abstractmethod
    def blocks(self, model: Any) -> dict[str, nn.Module]:
        """All blocks by name, in the order in which they run."""

    @abstractmethod
    def start(
        self, model: Any, latents: Float[Tensor, "b c h w"], time: Float[Tensor, " b"], text: Conditioning
    ) -> tuple[Tensor, tuple[Any, ...], dict[str, Any]]:
        """The image tokens, the further arguments of each block, and the options of the recording processors.

        Raises:
            ValueError: If the latents are too large for the model.
        """

    @abstractmethod
    def text_layers(self, block: Any) -> Sequence[nn.Module | None]:
        """The layers of a block that compute the text for the next block."""

    def layout(self, model: Any) -> Layout:
        """Three blocks become the levels with strides 8, 16 and 32 pixels; see `joint_taps`."""
        return self._with_taps(self._layout(model), joint_taps(list(self.blocks(model))))

    def layout_at(self, model: Any, blocks: Sequence[int]) -> Layout:
        """The same levels, taken from the blocks that the caller chose."""
        return self._with_taps(self._layout(model), chosen_taps(list(self.blocks(model)), blocks))

    def _layout(self, model: Any) -> Layout:
        config = model.config
        if config["patch_size"] != self.patch_size:
            raise ModelError(
                f"the transformer's config has patch_size={config['patch_size']}; tadp reads {self.patch_size}."
            )
        return Layout(
            channels=(config["num_attention_heads"] * config["attention_head_dim"],) * len(REDUCTION),
            reduction=REDUCTION,
            taps=(),
            attention_layers={},
            # A model with 1x1 patches takes latents that are already packed.
            latent_channels=config["in_channels"] * self.patch_size**2 // PATCH**2,
            text_width=config["joint_attention_dim"],
            pooled_width=config["pooled_projection_dim"],
        )

    def _with_taps(self, layout: Layout, taps: tuple[str, ...]) -> Layout:
        return replace(layout, taps=taps, attention_layers={f"{tap}.attn": level for level, tap in enumerate(taps)})

    def install_recording(self, model: Any, layout: Layout) -> None:
        """Install a processor in every attention layer; only the layers of the tapped blocks record."""
        layers = {name: name.removesuffix(".processor") for name in model.attn_processors}
        kind: Any = self.processor
        model.set_attn_processor(
            {name: kind(layer, layout.attention_layers.get(layer)) for name, layer in layers.items()}
        )

    def unused(self, model: Any, layout: Layout) -> list[nn.Module]:
        """The layers after the last map, and the text layers of the last block, whose output no later block reads."""
        names, blocks = zip(*self.blocks(model).items(), strict=True)
        last = max(names.index(layout.taps[level]) for level in layout.wanted)
        modules = (*blocks[last + 1 :], model.norm_out, model.proj_out, *self.text_layers(blocks[last]))
        return [module for module in modules if module is not None]

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
        """Run the transformer up to the last level that is wanted. The timestep is 1,000 times the share of noise."""
        if isinstance(timestep, Tensor):
            time = timestep.to(latents.device, torch.float32)
        else:
            time = torch.full((latents.shape[0],), float(timestep), device=latents.device)
        image, arguments, options = self.start(model, latents, time, text)
        return joint_pass(
            self.blocks(model),
            image,
            model.context_embedder(text.embeddings),
            arguments,
            taps=layout.taps,
            levels=layout.wanted,
            size=(latents.shape[2] // PATCH, latents.shape[3] // PATCH),
            options=options,
            record_levels=record_levels,
            record_heads=record_heads,
            is_checkpointed=torch.is_grad_enabled() and model.gradient_checkpointing,
        )
