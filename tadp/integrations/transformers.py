"""transformers: a backbone for UperNet, Mask2Former and other models that load one through `AutoBackbone`."""

import base64
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from jaxtyping import Float
from torch import Tensor
from transformers import AutoBackbone, AutoConfig, CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.backbone_utils import BackboneConfigMixin, BackboneMixin
from transformers.configuration_utils import PretrainedConfig
from transformers.modeling_outputs import BackboneOutput
from transformers.modeling_utils import PreTrainedModel

from tadp.backbone import TADPBackbone
from tadp.backbone.options import check_levels, check_saved_options
from tadp.diffusion.families import family_of, family_of_config
from tadp.diffusion.loading.networks import hollow_denoiser
from tadp.diffusion.noise import read_scheduler
from tadp.diffusion.vae import VAEEncoder
from tadp.errors import ModelError
from tadp.files.building import Sizes, check_entries, explained, limited
from tadp.files.hub import read_json
from tadp.files.model_folder import CONFIG_NAME, model_folder, read_config
from tadp.files.pretrained import load_reader
from tadp.files.reader_configs import check_patterns
from tadp.files.schema import check_types
from tadp.integrations.pyramid import Pyramid, Stride4

_LARGEST_TOKENIZER = 2**26  # bytes; CLIP has 3 million
_SELF = Path("this TADPConfig")  # its parts have no file of their own
# What `transformers` loads into it is not known here. The largest model that a TADPConfig describes is far below.
_LARGEST = Sizes(tensors=2**12, elements=2**30, largest=2**17)
_TOKENIZER_OPTIONS = ("model_max_length", "bos_token", "eos_token", "unk_token", "pad_token")


class TADPConfig(BackboneConfigMixin, PretrainedConfig):
    """The config from which `AutoBackbone.from_config` of transformers builds a backbone.

    It describes the parts of the base model and contains the tokenizer's vocabulary. So a saved model can be loaded
    without the base model: `save_pretrained` of UperNet and other models writes all weights, including the frozen ones.

    Args:
        base_model: Name, folder or hub id of a Stable Diffusion 1.x or 2.x model, for `TADPBackbone.from_pretrained`. A
            model that is built from the config starts with the weights of this base model. A model that is loaded by
            `from_pretrained` does not need it.
        backbone_options: Options of `TADPBackbone`, such as {"attach_attention": [1]}; None uses the defaults.
        stride4: Kind of an additional map at stride 4, "vae" or "upsampled", which becomes the first stage; None adds
            no map. See `Pyramid`.
        stride4_channels: Number of channels of the "upsampled" map at stride 4.
        mean: Mean that the image processor subtracts, its `image_mean`. None is for pixels in [0, 1].
        std: Standard deviation by which the image processor divides, its `image_std`; None if `mean` is None.
        out_features: Names of the stages to return, such as "stride8".
        out_indices: Numbers of the stages to return, with 0 the finest. If this and `out_features` are None, all stages
            are returned.
        parts: Description of the base model's parts, as it is in a saved config. None reads it from the base model.
        **kwargs: Arguments of `PretrainedConfig`.

    Raises:
        UnknownModelError: If there is no such base model.
        ModelError: If the base model is not Stable Diffusion 1.x or 2.x, or has an `AutoencoderTiny`.

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
        parts: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.base_model = base_model
        self.parts = _describe(base_model) if parts is None and base_model is not None else parts
        saved = (self.parts or {}).get("options", {})
        self.backbone_options = saved | (backbone_options or {})
        self.stride4, self.stride4_channels = stride4, stride4_channels
        self.mean, self.std = mean and list(mean), std and list(std)
        with explained(_SELF, dict(self.parts or {}), what="a backbone"):
            self.stage_names = _stage_names(self.parts, stride4, self.backbone_options.get("levels"))
        if out_features is None and out_indices is None:
            out_indices = list(range(len(self.stage_names)))
        if self.parts is not None:
            self.set_output_features_output_indices(out_features=out_features, out_indices=out_indices)
        else:
            self._out_features, self._out_indices = None, None


class TADPModel(BackboneMixin, PreTrainedModel):
    """The backbone that a `TADPConfig` describes. `pyramid.backbone` is the `TADPBackbone`, for text and captioner.

    Raises:
        ModelError: If the config has no base model.
    """

    config_class = TADPConfig
    base_model_prefix = "tadp"
    main_input_name = "pixel_values"
    has_attentions = False

    def __init__(self, config: TADPConfig):
        super().__init__(config)
        if config.parts is None:
            raise ModelError("this TADPConfig has no base model; pass one, as in TADPConfig(base_model='tadp-tiny').")
        check_saved_options(config.backbone_options, "this TADPConfig")
        is_loading = torch.get_default_device().type == "meta"  # within from_pretrained, which loads all weights
        if is_loading or config.base_model is None:
            backbone = _build(config.parts, config.backbone_options)
        else:
            backbone = TADPBackbone.from_pretrained(config.base_model, **config.backbone_options)
        stride4: Any = config.stride4
        self.pyramid = Pyramid(
            backbone,
            stride4=stride4,
            stride4_channels=config.stride4_channels,
            mean=config.mean,
            std=config.std,
        )
        self.num_features = list(self.pyramid.feature_info.channels)
        if not is_loading:
            for module in self.modules():
                module._is_hf_initialized = True  # pyright: ignore[reportArgumentType]  otherwise reset at random
        self.post_init()

    def forward(
        self,
        pixel_values: Float[Tensor, "b 3 h w"],
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        **_options: Any,
    ) -> BackboneOutput | tuple[tuple[Tensor, ...]]:
        """Compute the stages of `out_features`; see `Pyramid`."""
        indices = [self.stage_names.index(name) for name in self.out_features]
        maps = self.pyramid(pixel_values, indices=None if output_hidden_states else indices)
        selected = tuple(maps[index] for index in indices) if output_hidden_states else tuple(maps)
        if return_dict is False:
            return (selected,)
        return BackboneOutput(feature_maps=selected, hidden_states=tuple(maps) if output_hidden_states else None)

    def train(self, mode: bool = True) -> "TADPModel":
        """Set the training mode, and freeze the frozen parts again, because `from_pretrained` makes new parameters."""
        super().train(mode)
        backbone = self.pyramid.backbone
        backbone.vae.requires_grad_(False)
        if backbone.text_encoder is not None:
            backbone.text_encoder.requires_grad_(False)
        backbone.freeze_unused()
        return self

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Do nothing: all weights are loaded, or were initialised by their own layers."""


def register() -> None:
    """Register tadp with `AutoConfig` and `AutoBackbone`. Loading a config or a saved model needs this too."""
    AutoConfig.register("tadp", TADPConfig, exist_ok=True)
    AutoBackbone.register(TADPConfig, TADPModel, exist_ok=True)


def _describe(base_model: str) -> dict[str, Any]:
    """Read the configs of a base model's parts, its tokenizer and scheduler, and the options saved with it."""
    folder = model_folder(base_model)
    saved = read_json(folder / CONFIG_NAME) if (folder / CONFIG_NAME).exists() else {}
    denoiser = hollow_denoiser(folder)
    family = family_of(denoiser)
    if len(family.text_parts) > 1:
        raise ModelError(
            f"{base_model} is a {family.name}; a TADPConfig describes Stable Diffusion 1.x and 2.x, and other "
            "families with one text encoder. Use tadp.integrations.Pyramid to put this one into a model of your own."
        )
    parts: dict[str, Any] = {"unet": read_config(folder, family.part), "vae": read_config(folder, "vae")}
    if parts["vae"].get("_class_name") == "AutoencoderTiny":
        raise ModelError(f"{base_model} has an AutoencoderTiny; a TADPConfig describes models with an AutoencoderKL.")
    if saved.get("has_text_encoder", True):
        parts["text_encoder"] = read_config(folder, "text_encoder")
        parts["tokenizer"] = _pack_tokenizer(folder / "tokenizer")
    parts["reduction"] = list(family.layout(denoiser).reduction)
    return parts | {"scheduler": read_scheduler(folder), "options": saved.get("options", {})}


def _pack_tokenizer(folder: Path) -> dict[str, Any]:
    tokenizer = load_reader(CLIPTokenizer, folder, what=f"{folder.name}/")
    content = tokenizer.backend_tokenizer.to_str().encode()
    options = {name: getattr(tokenizer, name) for name in _TOKENIZER_OPTIONS}
    return options | {"content": base64.b85encode(zlib.compress(content, 9)).decode()}


def _unpack_tokenizer(packed: dict[str, Any]) -> CLIPTokenizer:
    from tokenizers import Tokenizer

    unpacked = zlib.decompressobj()
    content = unpacked.decompress(base64.b85decode(packed["content"]), _LARGEST_TOKENIZER).decode()
    if unpacked.unconsumed_tail:
        raise ModelError(f"the tokenizer in this TADPConfig is larger than {_LARGEST_TOKENIZER} bytes; get it again.")
    options = {name: packed[name] for name in _TOKENIZER_OPTIONS}
    check_patterns(json.loads(content), _SELF)
    return CLIPTokenizer(tokenizer_object=Tokenizer.from_str(content), **options)


def _build(parts: dict[str, Any], options: dict[str, Any]) -> TADPBackbone:
    """Build a backbone with random weights, or without weights on the meta device."""
    for part in ("unet", "vae", "text_encoder"):
        check_entries(parts.get(part, {}), _SELF / part, _LARGEST)
    with explained(_SELF, parts, what="a backbone"), limited(_LARGEST):
        text = {}
        if "text_encoder" in parts:
            config = CLIPTextConfig.from_dict(parts["text_encoder"])
            text = {"text_encoder": CLIPTextModel(config), "tokenizer": _unpack_tokenizer(parts["tokenizer"])}
        autoencoder: Any = AutoencoderKL.from_config(parts["vae"])
        vae = VAEEncoder(autoencoder)
        unet = family_of_config(parts["unet"], Path("the base of this TADPConfig")).build(parts["unet"])
    return TADPBackbone(vae=vae, unet=unet, scheduler=parts.get("scheduler"), **text, **options)


def _stage_names(parts: dict[str, Any] | None, stride4: Stride4 | None, levels: Sequence[int] | None) -> list[str]:
    if parts is None:
        return []
    check_types(parts["vae"], AutoencoderKL, _SELF / "vae")
    finest = 2 ** (len(parts["vae"]["block_out_channels"]) - 1)
    strides = {level: finest * cells for level, cells in enumerate(parts["reduction"])}
    chosen = strides if levels is None else check_levels(levels, strides)
    return [f"stride{stride}" for stride in ([finest // 2] if stride4 else []) + [strides[level] for level in chosen]]
