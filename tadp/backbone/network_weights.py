"""`NetworkWeights`: the networks of a backbone as weights: where they are, in which dtype, and which of them train."""

import copy
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from tadp.backbone.options import BackboneOptions, check_levels
from tadp.diffusion.compilation import Backend, compile_parts
from tadp.diffusion.families import Family, Layout
from tadp.diffusion.vae import AnyVAE
from tadp.errors import ModelError
from tadp.files.diffusers_hooks import (
    LOAD_WITHOUT,
    check_trains,
    compute_device,
    compute_dtype,
    is_cast,
    is_hooked,
    is_offloaded,
    is_quantized,
    kept_small,
)
from tadp.text.conditioning import TextAdapter
from tadp.text.stack import AnyText
from tadp.training.schedules import Groups, decay_groups, is_unet_norm

Model = TypeVar("Model", bound="NetworkWeights")
_CPU = torch.device("cpu")
_one_at_a_time = threading.RLock()  # a second thread must not move away the weights with which the first computes


class NetworkWeights(nn.Module):
    """The networks of a backbone as weights. Its subclass `FeatureModel` builds and runs them.

    Attributes:
        vae: The VAE's encoder, which is frozen.
        unet: The denoiser.
        text_encoder: The frozen text encoder or encoders; None if all text is passed as `Conditioning`.
        text_adapter: The text adapter; None if the backbone has none.
        family: The family of the base model.
        layout: Where the denoiser's levels are.
        idle_on_cpu: Whether the VAE and the text encoder wait on the CPU while they are not used.
    """

    vae: AnyVAE
    unet: nn.Module
    text_encoder: AnyText | None
    text_adapter: TextAdapter | None
    family: Family
    layout: Layout
    _options: BackboneOptions
    idle_on_cpu = False

    @property
    def device(self) -> torch.device:
        """The device on which the U-Net computes. With group offloading, its weights are elsewhere."""
        return compute_device(self.unet)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which the U-Net computes. With `storage_dtype`, its weights are stored in another."""
        return compute_dtype(self.unet)

    def awake(self, part: nn.Module) -> AbstractContextManager[None]:
        """A block in which a part computes on the backbone's device, also if it waits on the CPU at other times."""
        return self._moved(part) if self.idle_on_cpu and not torch.compiler.is_compiling() else nullcontext()

    @contextmanager
    def _moved(self, part: nn.Module) -> Iterator[None]:
        with _one_at_a_time:
            if not is_offloaded(part):
                part.to(self.device)
            try:
                yield
            finally:
                part.to(_CPU)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True):
        """Move or convert all weights, as `to` does, except that weights which wait elsewhere stay there.

        Raises:
            ModelError: If a device or a dtype was fixed when the backbone was loaded.
        """
        idle = [self.vae, self.text_encoder] if self.idle_on_cpu else []
        waiting = [part for part in self.children() if part in idle or is_offloaded(part)]
        if not waiting and not is_cast(self.unet) and not is_quantized(self.unet):
            return super()._apply(fn, recurse)
        before = torch.empty(0, device=self.device, dtype=self.dtype)
        after = fn(before)
        if after.dtype != before.dtype and (is_cast(self.unet) or is_quantized(self.unet)):
            raise ModelError(
                f"the dtype of this backbone cannot change, because its U-Net is {kept_small(self.unet)}. Load it "
                f"again with dtype={after.dtype}."
            )
        if after.device != before.device and any(map(is_offloaded, waiting)):
            raise ModelError(
                f"this backbone cannot be moved, because its weights are offloaded from {before.device}. Load it again "
                f"with device={str(after.device)!r}."
            )

        def converted(weight: Tensor) -> Tensor:
            changes = after.dtype != before.dtype and weight.is_floating_point()
            return weight.to(after.dtype) if changes else weight

        for part in self.children():
            part._apply(converted if part in waiting else fn)
        return self

    def __deepcopy__(self: Model, memo: dict[int, Any]) -> Model:
        """Copy all weights.

        Raises:
            ModelError: If hooks of diffusers move or convert weights; a copied layer would run with those of the first.
        """
        if any(map(is_hooked, self.modules())):
            raise ModelError(
                f"this backbone cannot be copied, because diffusers' hooks belong to its layers. {LOAD_WITHOUT}, or "
                "load it twice."
            )
        twin = memo[id(self)] = copy.copy(self)
        twin.__dict__ = copy.deepcopy(self.__dict__, memo)
        return twin

    def train(self: Model, mode: bool = True) -> Model:
        """Set the training mode; the frozen VAE and text encoder stay in evaluation mode."""
        super().train(mode)
        self.vae.eval()
        if self.text_encoder is not None:
            self.text_encoder.eval()
        return self

    def freeze(self: Model) -> Model:
        """Freeze the U-Net, to train a head on fixed features; a text adapter, if there is one, still trains."""
        self.unet.requires_grad_(False)
        return self

    def unfreeze(self: Model) -> Model:
        """Train the U-Net again, except for layers on which no map depends, such as those after the last map.

        Raises:
            ModelError: If its weights are quantized, offloaded or stored in 8 bits, and therefore cannot train.
        """
        check_trains(self.unet, self.family.part)
        self.unet.requires_grad_(True)
        return self.freeze_unused()

    def freeze_unused(self: Model, levels: Sequence[int] | None = None) -> Model:
        """Freeze the layers of the U-Net on which no map of these levels depends, so that DDP does not wait for them.

        Building a backbone and `unfreeze` do this, too. `with_options` does not, because both backbones share the
        weights. None is all levels of the backbone.
        """
        options = self._options
        strides = {level: self.vae.reduction * cells for level, cells in enumerate(self.layout.reduction)}
        numbers = options.levels if levels is None else check_levels(levels, strides)
        attached = () if options.detach_attention else options.attached_levels
        attention = [level for level in attached if numbers is None or level in numbers]
        self.family.freeze_unused(self.unet, self.layout.only(numbers, attention))
        return self

    def enable_gradient_checkpointing(self: Model, enabled: bool = True) -> Model:
        """Save memory in training at the cost of time: the U-Net's blocks are run again during backward."""
        self.family.set_checkpointing(self.unet, enabled)
        return self

    def compile(
        self,
        *,
        backend: Backend = "inductor",
        mode: str | None = None,
        options: Mapping[str, Any] | None = None,
        fullgraph: bool = False,
        dynamic: bool | None = None,
    ) -> None:
        """Compile in place what repeats in the U-Net and the VAE's encoder: resnets and transformer blocks.

        Each kind of part is compiled when it first runs, for images and batches of any size, and its code is used for
        all parts of its kind. Names of weights, saving and copying do not change; copies are not compiled. The
        arguments are those of `torch.compile`. In contrast, `torch.nn.Module.compile`, which a task model has, compiles
        the whole call. docs/speed.md says what compiling gains.

        Args:
            backend: Name of a backend of `torch.compile`, or a function.
            mode: Mode of the backend, such as "reduce-overhead", which uses CUDA graphs. None is the default mode.
            options: Options of the backend. On a CPU, `{"freezing": True}` gains most where no gradient is computed:
                weights become constants in the layout that the kernels need, which takes the memory of a second copy.
                Each part is then compiled for itself, for each size of images, and again after its weights change.
            fullgraph: Whether a part that does not become one graph is an error.
            dynamic: Whether sizes may vary. None compiles for all sizes at once; a single image, and a level that is
                one cell high or wide, have code of their own. False compiles again for each size.

        Raises:
            ModelError: If the family of the base model does not say which parts repeat, or hooks of diffusers move or
                convert weights.
            TypeError: If `backend` is neither a name nor a function.
            ValueError: If `torch.compile` refuses an argument.

        Example:
            >>> import tadp
            >>> backbone = tadp.TADPBackbone.from_pretrained("tadp-tiny")
            >>> backbone.compile()
        """
        if any(map(is_hooked, self.modules())):
            raise ModelError(f"diffusers' hooks cannot be compiled. {LOAD_WITHOUT}, or do not call compile().")
        self._check_repeats("torch.compile(backbone)")
        networks = ((self.unet, self.family.repeated), (self.vae, self.vae.repeated))
        for network, classes in networks:
            parts = {name: part for name, part in network.named_modules() if isinstance(part, classes)}
            compile_parts(parts, backend=backend, mode=mode, options=options, fullgraph=fullgraph, dynamic=dynamic)

    def parts_to_shard(self) -> list[nn.Module]:
        """List the modules of the denoiser that FSDP2 can shard one by one, because every pass calls them as a whole.

        Pass each of them to `torch.distributed.fsdp.fully_shard`, and then the whole model, which shards all other
        weights. Up blocks and the denoiser itself cannot be sharded as a whole: maps are taken between their layers.

        Returns:
            The resnets, transformer blocks and samplers of a U-Net, or the blocks of a transformer.

        Raises:
            ModelError: If the family of the base model does not say which parts repeat.

        Example:
            >>> import tadp
            >>> backbone = tadp.TADPBackbone.from_pretrained("tadp-tiny")
            >>> sorted({type(part).__name__ for part in backbone.parts_to_shard()})
            ['BasicTransformerBlock', 'Downsample2D', 'ResnetBlock2D', 'Upsample2D']
        """
        self._check_repeats("fully_shard(backbone)")
        return self.family.parts_to_shard(self.unet)

    def _check_repeats(self, instead: str) -> None:
        if not self.family.repeated:
            raise ModelError(
                f"the family {self.family.name} does not say which parts repeat; set `repeated` in it, or call "
                f"{instead}."
            )

    def parameter_groups(
        self, lr: float, *, unet_scale: float = 0.1, weight_decay: float = 5e-3, groups: Groups = "matrices"
    ) -> list[dict[str, Any]]:
        """Return the trainable parameters as groups for an optimiser.

        Args:
            lr: Learning rate of the head, which the text adapter also gets if there is one.
            unet_scale: Learning rate of the U-Net as a fraction of `lr`. The default, 0.1, is that of the paper's
                segmentation code.
            weight_decay: Weight decay of those parameters to which the rule in `groups` gives one. The default, 5e-3,
                is that of the paper's segmentation code.
            groups: Rule for weight decay: "matrices", which leaves out norms and biases, or "released",
                the groups of the paper's segmentation and detection code (see `tadp.training.schedules.Schedule`).
        """
        parameters = decay_groups(
            self.unet, lr=lr, weight_decay=weight_decay, groups=groups, scale=unet_scale, is_norm=is_unet_norm
        )
        if self.text_adapter is not None:
            parameters += decay_groups(self.text_adapter, lr=lr, weight_decay=weight_decay, groups=groups)
        return parameters
