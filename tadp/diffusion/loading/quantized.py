"""Load a denoiser with quantized weights, by diffusers' own means, and check the configs that say how."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.quantizers.quantization_config import QuantizationConfigMixin as DiffusersConfig
from torch import nn
from transformers.utils.quantization_config import QuantizationConfigMixin as TransformersConfig

from tadp.errors import MissingExtraError, ModelError
from tadp.files.hub import weight_files
from tadp.files.model_folder import WEIGHTS, read_tensors
from tadp.files.weight_values import check_finite, check_floats

_NEEDS_GPU = "bitsandbytes"  # and so do the other names that begin with it


def by_part(quantization: Any, denoiser: str, encoders: Collection[str]) -> dict[str, Any]:
    """Return the config of each part that is quantized, after checking that it can be.

    Args:
        quantization: A config of diffusers for the denoiser; or configs by part; None quantizes nothing.
        denoiser: Subfolder of the denoiser.
        encoders: Subfolders of the text encoders.

    Raises:
        TypeError: If a config is not one of the library that loads the part.
        ValueError: If a part does not exist or is never quantized.
        ModelError: If a config needs a GPU, and there is none.
    """
    if quantization is None:
        return {}
    configs = dict(quantization) if isinstance(quantization, Mapping) else {denoiser: quantization}
    for part, config in configs.items():
        if part not in (denoiser, *encoders):
            known = ", ".join((denoiser, *encoders))
            raise ValueError(f"quantization_config has the part {part!r}; the parts to quantize are {known}.")
        kind, library = (DiffusersConfig, "diffusers") if part == denoiser else (TransformersConfig, "transformers")
        if not isinstance(config, kind):
            raise TypeError(
                f"the quantization_config of {part} must be a config of {library}, such as {library}.TorchAoConfig(…); "
                f"got {type(config).__module__.partition('.')[0]}.{type(config).__name__}."
            )
        method = str(getattr(config.quant_method, "value", config.quant_method))
        if method.startswith(_NEEDS_GPU) and not torch.cuda.is_available():
            raise ModelError(
                f"{_NEEDS_GPU} quantizes on a GPU, and torch finds none here. torchao also works on a CPU: pass "
                f"{library}.TorchAoConfig(torchao.quantization.Int8WeightOnlyConfig())."
            )
    return configs


def load_quantized(hollow: nn.Module, folder: Path, *, config: Any, variant: str | None, dtype: torch.dtype) -> Any:
    """Load a denoiser of diffusers, and quantize its weights while they are read.

    Args:
        hollow: The denoiser that the folder describes, without weights.
        folder: The folder of its config and weights.
        config: A quantization config of diffusers.
        variant: Variant of the weight files; None for files without a variant.
        dtype: Dtype of the weights that are not quantized, and of the computation.

    Raises:
        CorruptFileError: If a weight in the files is not floating point, or not finite.
        MissingExtraError: If the config needs a package that is not installed.
        ModelError: If diffusers cannot quantize the denoiser, or weights are missing.
    """
    kind: Any = type(hollow)
    for tensor in read_tensors(weight_files(folder, WEIGHTS["unet"], variant)):
        check_floats([tensor], folder, hollow)
        check_finite([tensor], folder)
    what = f"the {kind.__name__} in {folder}"
    try:
        denoiser, report = kind.from_pretrained(
            folder, quantization_config=config, torch_dtype=dtype, variant=variant, use_safetensors=True,
            local_files_only=True, output_loading_info=True,
        )  # fmt: skip
    except ImportError as error:
        raise MissingExtraError(f"{what} cannot be quantized without a package: {_first_line(error)}") from error
    except (ValueError, TypeError, NotImplementedError, AttributeError, AssertionError) as error:
        raise ModelError(
            f"{what} cannot be quantized with {type(config).__name__}: {_first_line(error)}. Pass another "
            "quantization_config, or none."
        ) from error
    if missing := sorted(report["missing_keys"]):
        raise ModelError(f"{folder} lacks {len(missing)} weights, such as {missing[0]}. Get the model again.")
    return denoiser.requires_grad_(False)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
