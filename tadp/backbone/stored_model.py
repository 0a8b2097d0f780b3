"""`StoredModel`: a `CaptionedModel` that is loaded from a folder or the hub, saved and pushed."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from huggingface_hub import ModelCard
from torch import nn

from tadp.backbone.captioned_model import CaptionedModel
from tadp.backbone.memory_saving import GroupOffload, MemorySaving
from tadp.backbone.options import BackboneOptions, check_saved_options
from tadp.backbone.summary import backbone_card, summarize
from tadp.diffusion.loading.networks import load_text_adapter
from tadp.diffusion.loading.parts import load_parts, save_parts
from tadp.diffusion.vae import AnyVAE
from tadp.files.atomic import replace_folder
from tadp.files.building import with_saved
from tadp.files.hub import HubOptions, Source
from tadp.files.model_folder import CONFIG_NAME, OWN_PARTS, model_folder
from tadp.files.publishing import Pushable
from tadp.text.stack import AnyText

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
    from transformers import CLIPTextModel, CLIPTokenizer

Model = TypeVar("Model", bound="StoredModel")


class StoredModel(CaptionedModel, Pushable):
    """A `CaptionedModel` that is loaded from a folder or the hub, saved and pushed. Its subclass is `TADPBackbone`.

    The arguments are those of `CaptionedModel`.
    """

    def __init__(self, *arguments: Any, **networks: Any):
        super().__init__(*arguments, **networks)
        self._source: Source | None = None

    @classmethod
    def from_pretrained(
        cls: type[Model],
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
        group_offload: GroupOffload | None = None,
        storage_dtype: torch.dtype | None = None,
        quantization_config: Any = None,
        idle_on_cpu: bool = False,
        **options: Any,
    ) -> Model:
        """Load a base model as a backbone, in evaluation mode: Stable Diffusion 1.x, 2.x, XL, 3.x, or FLUX.

        Args:
            name: "tadp-tiny" (comes with tadp), a folder in diffusers layout, or a hub id such as
                "stable-diffusion-v1-5/stable-diffusion-v1-5".
            revision: Branch, tag or commit on the hub. None is the default branch.
            variant: Variant of the weight files, such as "fp16". None reads files without a variant.
            dtype: Dtype of all parts. None is float32.
            device: Device of the backbone, such as "cuda". None is the CPU. `.to(device)` moves the backbone later.
            memory_format: Memory format of the convolutions. `torch.channels_last` suits bfloat16 (docs/speed.md).
            local_files_only: Whether to use only files on this machine and never connect to the hub.
            cache_dir: Folder for downloads. None is huggingface_hub's own cache.
            token: Access token for gated models. None is the token that `hf auth login` stored.
            unet: A U-Net to use instead of the model's own: a module, a folder, a hub id, or a .safetensors file with
                the tensors of the model's U-Net, local or on the hub ("owner/name/file.safetensors").
            vae: A VAE to use instead of the model's own: a module, a folder or a hub id. An `AutoencoderTiny` is
                faster, and its latents are a little less exact.
            lora: A LoRA to add to U-Net and text encoder: a file, a folder or a hub id. Needs the extra `train`.
            lora_scale: Factor by which the LoRA's change of the weights is multiplied.
            text_encoder: A text encoder to use instead of the model's own, which is then not loaded.
            tokenizer: The tokenizer of `text_encoder`.
            load_t5: Whether to load T5, the largest text encoder of Stable Diffusion 3, with 4.8 billion parameters.
                Without it, only the two CLIP encoders read a caption.
            group_offload: Whether the weights of U-Net and text encoders wait on the CPU, and each layer
                ("leaf_level") or block ("block_level") is moved to `device` while it runs. None keeps them on `device`.
            storage_dtype: Dtype of 8 bits in which the U-Net's large layers are stored, such as `torch.float8_e4m3fn`.
                Each layer is converted to `dtype` while it runs. None stores them in `dtype`.
            quantization_config: How weights are quantized while they are loaded: a quantization config of diffusers
                for the U-Net, such as `diffusers.TorchAoConfig`, or a dictionary of such configs, and those of
                transformers, by part: `{"transformer": …, "text_encoder_2": …}`. None quantizes nothing.
            idle_on_cpu: Whether VAE and text encoders are moved to the CPU after each use.
            **options: Options of `TADPBackbone`. Options that are not passed keep the values saved with the model, or
                else their defaults.

        Raises:
            UnknownModelError: If there is no such model.
            MissingFileError, CorruptFileError: If a file is missing, damaged, or a pickle; the message says which.
            ModelError: If the model belongs to no known family.
            MissingExtraError: If the chosen way to save memory needs a package that is not installed.
            TypeError: If `dtype` is not a `torch.dtype`.
            ValueError: If two ways to save memory exclude each other, or a part to quantize does not exist.
        """
        if dtype is not None and not isinstance(dtype, torch.dtype):
            raise TypeError(f"dtype must be a torch.dtype, such as torch.bfloat16; got {dtype!r}.")
        hub = HubOptions(revision, variant, cache_dir, token, local_files_only)
        folder, dtype = model_folder(name, hub=hub), dtype or torch.float32
        saving = MemorySaving(dtype, group_offload, storage_dtype, quantization_config, idle_on_cpu)
        replacements = {"unet": unet, "vae": vae, "text_encoder": text_encoder, "tokenizer": tokenizer}
        parts, saved, weights = load_parts(
            folder, dtype=dtype, given=replacements, lora=lora, lora_scale=lora_scale, hub=hub, load_t5=load_t5,
            quantization=saving.quantization_config,
        )  # fmt: skip
        check_saved_options(saved, folder / CONFIG_NAME)
        path = folder / CONFIG_NAME
        backbone = with_saved(lambda values: cls(**(parts | values)), saved, options, path, reader=BackboneOptions)
        backbone._source = Source.of(name, folder, revision=revision, weights=weights)
        if backbone.text_adapter is not None and saved.get("text_adapter"):
            load_text_adapter(backbone.text_adapter, folder, dtype=dtype)
        for module in (backbone.vae, backbone.unet):
            module.to(memory_format=memory_format)  # pyright: ignore[reportCallIssue]  missing in torch's stub
        saving.apply(backbone, device)
        return backbone.eval() if device is None else backbone.to(device).eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the backbone to a folder in diffusers layout. `from_pretrained` then loads exactly the same weights.

        The VAE is written without its decoder. If saving fails, the folder keeps its former content.

        Raises:
            OutputError: If `folder` cannot be written to.
        """
        with replace_folder(Path(folder), parts=OWN_PARTS) as new_folder:
            save_parts(
                new_folder, unet=self.unet, vae=self.vae, text_encoder=self.text_encoder,
                text_adapter=self.text_adapter, scheduler=self.passes.scheduler, options=self.options.to_dict(),
            )  # fmt: skip

    def generate_model_card(self, **entries: Any) -> ModelCard:
        """The README of the backbone's repository; see `push_to_hub`."""
        return backbone_card(self, self.source, entries)

    def __repr__(self) -> str:
        return summarize(self, self.source)

    @property
    def source(self) -> Source | None:
        """What `from_pretrained` loaded; None for a backbone built from parts. Training and installing keep it."""
        return self._source
