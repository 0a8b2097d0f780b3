"""What Stable Diffusion 3 and FLUX share: transformers whose blocks attend to image and text in one softmax."""

from abc import abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tadp.diffusion.families.family import DiffusersFamily, Layout
from tadp.diffusion.transformer import PATCH, REDUCTION, chosen_taps, joint_pass, joint_taps
from tadp.errors import ModelError
from tadp.text.conditioning import Conditioning


class JointTransformerFamily(DiffusersFamily):
    """A family whose denoiser is a transformer with joint attention.

    Attributes:
        processor: Class of the processors that record; takes a layer's name and its level.
        patch_size: What the config of the transformer must say.
    """

    part = "transformer"
    noise_kind = "flow"
    takes_mask = False
    takes_any_size = False
    processor: Callable[[str, int | None], Any]
    patch_size: int

    @abstractmethod
    def blocks(self, model: Any) -> dict[str, nn.Module]:
        """All blocks in their order, by name."""

    @abstractmethod
    def start(
        self, model: Any, latents: Float[Tensor, "b c h w"], time: Float[Tensor, " b"], text: Conditioning
    ) -> tuple[Tensor, tuple[Any, ...], dict[str, Any]]:
        """Tokens of the image, what each block takes besides the text, and what recording processors take.

        Raises:
            ValueError: If the latents are too large for the model.
        """

    @abstractmethod
    def text_layers(self, block: Any) -> Sequence[nn.Module | None]:
        """What of a block makes the text that the next one reads."""

    def layout(self, model: Any) -> Layout:
        """Three blocks become strides 8, 16 and 32 in pixels; see `joint_taps`."""
        found = self._layout(model)
        return self._tapped(found, joint_taps(list(self.blocks(model))))

    def layout_at(self, model: Any, blocks: Sequence[int]) -> Layout:
        """The same of other blocks."""
        found = self._layout(model)
        return self._tapped(found, chosen_taps(list(self.blocks(model)), blocks))

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
            # A model whose patches are 1x1 takes latents that are packed already.
            latent_channels=config["in_channels"] * self.patch_size**2 // PATCH**2,
            text_width=config["joint_attention_dim"],
            pooled_width=config["pooled_projection_dim"],
        )

    def _tapped(self, layout: Layout, taps: tuple[str, ...]) -> Layout:
        return replace(layout, taps=taps, attention_layers={f"{tap}.attn": level for level, tap in enumerate(taps)})

    def install_recording(self, model: Any, layout: Layout) -> None:
        """Into every attention layer; those of the tapped blocks record."""
        layers = {name: name.removesuffix(".processor") for name in model.attn_processors}
        kind: Any = self.processor
        model.set_attn_processor(
            {name: kind(layer, layout.attention_layers.get(layer)) for name, layer in layers.items()}
        )

    def unused(self, model: Any, layout: Layout) -> list[nn.Module]:
        """All that comes after the last map, and what the last block makes of the text, which no later one reads."""
        names, blocks = zip(*self.blocks(model).items(), strict=True)
        last = max(names.index(tap) for tap in layout.taps)
        modules = (*blocks[last + 1 :], model.norm_out, model.proj_out, *self.text_layers(blocks[last]))
        return [module for module in modules if module is not None]

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
        """The transformer up to its last level; the timestep is a thousand times the share of noise."""
        time = torch.full((latents.shape[0],), float(timestep), device=latents.device)
        image, more, options = self.start(model, latents, time, text)
        return joint_pass(
            self.blocks(model),
            image,
            model.context_embedder(text.embeddings),
            more,
            taps=layout.taps,
            size=(latents.shape[2] // PATCH, latents.shape[3] // PATCH),
            options=options,
            record_levels=record_levels,
            is_checkpointed=torch.is_grad_enabled() and model.gradient_checkpointing,
        )
