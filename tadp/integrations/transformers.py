"""transformers: a backbone for UperNet, Mask2Former and other models that load one through `AutoBackbone`."""

import re
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoBackbone, AutoConfig, AutoModel
from transformers.backbone_utils import BackboneConfigMixin, BackboneMixin
from transformers.configuration_utils import PretrainedConfig
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming
from transformers.modeling_outputs import BackboneOutput
from transformers.modeling_utils import PreTrainedModel

from tadp.backbone import TADPBackbone
from tadp.backbone.options import check_saved_options
from tadp.captioner import Captioner
from tadp.errors import ModelError
from tadp.files.building import explained
from tadp.files.model_folder import change_of
from tadp.integrations.call_text import CallText, CaptionSource, checked_entries
from tadp.integrations.described_model import PLACE, build, describe, stage_names
from tadp.integrations.pyramid import Pyramid, Stride4

# The parts of a pyramid, as they are named in the model and in a file.
_OWN_NAME = re.compile(r"((?:^|\.)pyramid\.)((?:backbone|upsampler)\..*)")
_SWAPPED_NAME = re.compile(r"((?:^|\.)pyramid\.)((?:BACKBONE|UPSAMPLER)\..*)")


class TADPConfig(BackboneConfigMixin, PretrainedConfig):
    """The config from which `AutoBackbone.from_config` of transformers builds a backbone.

    It describes the parts of the base model and contains the tokenizers' vocabularies. So a saved model can be loaded
    without the base model: `save_pretrained` of UperNet and other models writes all weights, including the frozen ones.

    Args:
        base_model: Name, folder or hub id of a base model, for `TADPBackbone.from_pretrained`. A model that is built
            from the config starts with the weights of this base model. A model that is loaded by `from_pretrained` does
            not need it.
        backbone_options: Options of `TADPBackbone`, such as {"attach_attention": [1]}; None uses the defaults.
        stride4: Kind of an additional map at stride 4, "vae" or "upsampled", which becomes the first stage; None adds
            no map. See `Pyramid`.
        stride4_channels: Number of channels of the "upsampled" map at stride 4.
        mean: Mean that the image processor subtracts, its `image_mean`. None is for pixels in [0, 1].
        std: Standard deviation by which the image processor divides, its `image_std`; None if `mean` is None.
        out_features: Names of the stages to return, such as "stride8".
        out_indices: Numbers of the stages to return, with 0 the finest. If this and `out_features` are None, all stages
            are returned. Other stages are not computed, and the layers that only they need are frozen.
        captioner: A captioner, or its name, for images that come without text; see `Pyramid`. The config contains its
            name and the settings of its decoding.
        captions: Captions for images that come without text; see `Pyramid`. The config contains the whole table.
        text: One text for all images that come without text.
        clamp: Whether pixels out of range are cut to [0, 1] instead of refused; see `Pyramid`.
        parts: Description of the base model's parts, as it is in a saved config. None reads it from the base model.
        **kwargs: Arguments of `PretrainedConfig`.

    Raises:
        UnknownModelError: If there is no such base model.
        ModelError: If the base model belongs to no known family.

    Example:
        >>> TADPConfig(base_model="tadp-tiny", stride4="vae").stage_names
        ['stride4', 'stride8', 'stride16', 'stride32', 'stride64']
    """

    model_type = "tadp"

    def __init__(
        self,
        base_model: str | None = None,
        backbone_options: dict[str, Any] | None = None,
        stride4: Stride4 | None = None,
        stride4_channels: int = 128,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        out_features: list[str] | None = None,
        out_indices: list[int] | None = None,
        captioner: Captioner | str | dict[str, Any] | None = None,
        captions: CaptionSource | None = None,
        text: str | None = None,
        clamp: bool = False,
        parts: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.base_model = base_model
        self.parts = describe(base_model) if parts is None and base_model is not None else parts
        saved = (self.parts or {}).get("options", {})
        self.backbone_options = saved | (backbone_options or {})
        self.stride4, self.stride4_channels = stride4, stride4_channels
        self.mean, self.std = mean and list(mean), std and list(std)
        self.clamp = clamp
        source = CallText.of(captioner, captions, text, load=False)
        entries = {} if source is None else source.to_dict()
        self.captioner, self.captions, self.text = (entries.get(name) for name in ("captioner", "captions", "text"))
        with explained(PLACE, dict(self.parts or {}), what="a backbone"):
            self.stage_names = stage_names(self.parts, stride4, self.backbone_options.get("levels"))
        if out_features is None and out_indices is None:
            out_indices = list(range(len(self.stage_names)))
        if self.parts is not None:
            self.set_output_features_output_indices(out_features=out_features, out_indices=out_indices)
        else:
            self._out_features, self._out_indices = None, None


class TADPModel(BackboneMixin, PreTrainedModel):
    """The backbone that a `TADPConfig` describes. `pyramid.backbone` is the `TADPBackbone`, for text and captioner.

    `set_attn_implementation` affects the text encoders of transformers. The U-Net always uses PyTorch's
    `scaled_dot_product_attention`.

    Raises:
        ModelError: If the config has no base model.
    """

    config_class = TADPConfig
    base_model_prefix = "tadp"
    main_input_name = "pixel_values"
    input_modalities = ("image",)  # pyright: ignore[reportAssignmentType]  as in transformers' own backbones
    has_attentions = False
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    def __init__(self, config: TADPConfig):
        super().__init__(config)
        if config.parts is None:
            raise ModelError("this TADPConfig has no base model; pass one, as in TADPConfig(base_model='tadp-tiny').")
        check_saved_options(config.backbone_options, "this TADPConfig")
        self._is_loading = is_loading = (
            torch.get_default_device().type == "meta"
        )  # within from_pretrained, which loads all weights
        if is_loading or config.base_model is None:
            backbone = build(config.parts, config.backbone_options, is_hollow=is_loading)
        else:
            backbone = TADPBackbone.from_pretrained(config.base_model, **config.backbone_options)
        stride4: Any = config.stride4
        source = CallText.of(**checked_entries(vars(config), PLACE), load=not is_loading)
        self.pyramid = Pyramid(
            backbone if source is None else source.attach(backbone),
            stride4=stride4,
            stride4_channels=config.stride4_channels,
            mean=config.mean,
            std=config.std,
            text=config.text,
            clamp=config.clamp,
        )
        self.pyramid.call_text, self.pyramid.saves_text = source, False  # the config contains it
        register_checkpoint_conversion_mapping(config.model_type, [_OwnNames()], overwrite=True)
        self.num_features = list(self.pyramid.feature_info.channels)
        if not is_loading:
            for module in self.modules():
                module._is_hf_initialized = True  # pyright: ignore[reportArgumentType]  otherwise reset at random
        self.post_init()
        # T5's embeddings have two names; transformers itself only looks at direct children that are its own models.
        self.all_tied_weights_keys = self.get_expanded_tied_weights_keys(all_submodels=True)
        self._freeze_unused()

    def forward(
        self,
        pixel_values: Float[Tensor, "b 3 h w"],
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        **_options: Any,
    ) -> BackboneOutput | tuple[tuple[Tensor, ...], ...]:
        """Compute the stages of `out_features`; see `Pyramid`.

        Args:
            pixel_values: Images (B, 3, H, W), as the pyramid takes them.
            output_hidden_states: Whether to also return all stages, as `hidden_states`. None is the config's choice.
            output_attentions: Not used, because a backbone returns attention to words instead:
                `model.pyramid.backbone(images, captions).attention`.
            return_dict: Whether to return a `BackboneOutput` instead of a tuple. None is the config's choice.
        """
        hidden = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        indices = [self.stage_names.index(name) for name in self.out_features]
        maps = tuple(self.pyramid(pixel_values, indices=None if hidden else indices))
        selected = tuple(maps[index] for index in indices) if hidden else maps
        if not (self.config.return_dict if return_dict is None else return_dict):
            return (selected, maps) if hidden else (selected,)
        return BackboneOutput(feature_maps=selected, hidden_states=maps if hidden else None)

    def get_input_embeddings(self) -> nn.Module:
        """The first convolution of the VAE, which reads the pixels."""
        return next(module for module in self.pyramid.backbone.vae.modules() if isinstance(module, nn.Conv2d))

    def train(self, mode: bool = True) -> "TADPModel":
        """Set the training mode, and freeze the frozen parts again, because `from_pretrained` makes new parameters."""
        super().train(mode)
        if self._is_loading:
            self._check_loaded()
            self._is_loading = False
        self._freeze_unused()
        return self

    def _freeze_unused(self) -> None:
        """Freeze what does not train, and what the stages of `out_features` do not need."""
        backbone = self.pyramid.backbone
        backbone.vae.requires_grad_(False)
        if backbone.text_encoder is not None:
            backbone.text_encoder.requires_grad_(False)
        self.pyramid.freeze_unused([self.stage_names.index(name) for name in self.out_features])

    def _set_gradient_checkpointing(self, enable: bool = True, **_options: Any) -> None:
        """Switch the gradient checkpointing of the backbone, for `gradient_checkpointing_enable`."""
        self.pyramid.backbone.enable_gradient_checkpointing(enable)

    def _init_weights(self, module: nn.Module) -> None:
        """Do nothing: all weights are loaded, or were initialised by their own layers."""

    def _check_loaded(self) -> None:
        """Refuse a backbone of which transformers loaded a part, because it sets the rest at random.

        Raises:
            ModelError: If the saved model lacks weights of the backbone.
        """
        weights = dict(self.named_parameters())
        absent = [name for name, weight in weights.items() if not getattr(weight, "_is_hf_initialized", False)]
        if absent and len(absent) < len(weights):
            raise ModelError(
                f"the saved model lacks the backbone's {absent[0]}, or has it under another name. Save it again with "
                "the versions of transformers and tadp that load it."
            )


class _OwnNames(WeightRenaming):
    """Keeps the names of the backbone's weights as they are.

    Models of transformers rename weights by patterns when they load a file, such as "out_proj" to "o_proj" in DETR, and
    the patterns also match weights of the backbone inside. So in a file, upper and lower case are swapped in the names
    of the backbone's weights; then no pattern matches them.
    """

    __slots__ = ("is_saving",)

    def __init__(self, *, is_saving: bool = False):
        super().__init__("pyramid", "pyramid")
        self.is_saving = is_saving

    def rename_source_key(self, source_key: str) -> tuple[str, str | None]:
        pattern = _OWN_NAME if self.is_saving else _SWAPPED_NAME
        match = pattern.search(source_key)
        if match is None:
            return source_key, None
        name = match[2].replace("_orig_mod.", "")  # torch.compile's wrapper, which the file does without
        if self.is_saving and ("lora_" in name or "base_layer" in name):
            raise ModelError(f"the backbone cannot be saved with {name}. {change_of(name)}")
        return source_key[: match.end(1)] + name.swapcase(), None

    def reverse_transform(self) -> "_OwnNames":
        return _OwnNames(is_saving=not self.is_saving)


def register() -> None:
    """Register tadp with `AutoConfig`, `AutoModel` and `AutoBackbone`, as importing this module already does.

    A process that loads a saved config or model must import this module first. Otherwise transformers says `KeyError:
    'tadp'`, or that it does not recognize the model type `tadp`.
    """
    AutoConfig.register(TADPConfig.model_type, TADPConfig, exist_ok=True)
    for auto_class in (AutoModel, AutoBackbone):
        auto_class.register(TADPConfig, TADPModel, exist_ok=True)


register()  # at import, because transformers' own error about a model type that is missing does not say what to import
