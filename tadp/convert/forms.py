"""The forms of files from the paper's release, VPD and mmseg's VPD, recognised by the names of tensors."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from tadp.errors import ModelError

Task = Literal["segmentation", "depth", "detection"]
_WRAPPERS = ("state_dict", "model", "model_state_dict")
_FIRST = "diffusion_model.input_blocks.0.0.weight"


@dataclass(frozen=True)
class Form:
    """A kind of checkpoint, and the prefixes of its tensors' names by which its parts are found.

    Attributes:
        kind: Description of the kind of file, for error messages.
        task: Task of the model.
        root: Prefix of the class embeddings, the text adapter, the VAE and the copy of the whole base model.
        unet: Prefix of the U-Net.
        head: The code base whose names the head's tensors have.
    """

    kind: str
    task: Task
    root: str
    unet: str
    head: Literal["mmcv", "smp", "depth", "mmseg depth", "torchvision"]

    @property
    def vae(self) -> str:
        """Prefix of the VAE, if it is stored separately."""
        return f"{self.root}encoder_vq."

    @property
    def whole(self) -> str:
        """Prefix of the parts of Stable Diffusion that the released code keeps."""
        return f"{self.root}sd_model."


DEPTH = Form("depth model of the paper's release or of VPD", "depth", "encoder.", "encoder.unet.unet.", "depth")
SEGMENTATION = Form(
    "mmcv segmentation model of the paper's release or of VPD", "segmentation", "", "unet.unet.", "mmcv"
)
PASCAL = Form("Pascal VOC segmentation model of the paper's code", "segmentation", "", "model.unet.", "smp")
DETECTION = Form("detection model of the paper's release", "detection", "", "model.unet.", "torchvision")
MMSEG_DEPTH = Form("mmseg's VPD for depth", "depth", "backbone.", "backbone.unet.unet.", "mmseg depth")
MMSEG = Form("mmseg's VPD for segmentation", "segmentation", "backbone.", "backbone.unet.unet.", "mmcv")


def state_of(content: Any, path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors of a file by name, and the other content of the file.

    The model's tensors are under the key `model` (depth), under the key `state_dict` (mmcv) or at the top level
    (detection). The prefix `module.`, which DistributedDataParallel adds to names, is removed.

    Args:
        content: The content of the file, as `read_pickle` returns it.
        path: Path of the file, for error messages.

    Raises:
        ModelError: If the content has no named tensors.
    """
    rest: dict[str, Any] = {}
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            rest = {str(key): value for key, value in content.items() if key != wrapper}
            content = content[wrapper]
            break
    if not isinstance(content, Mapping) or not content:
        raise ModelError(f"{path} holds a {type(content).__name__}, not tensors by name.")
    wrong = [str(key) for key, value in content.items() if not isinstance(value, Tensor)]
    if wrong:
        raise ModelError(
            f"{path} holds {len(wrong)} values other than tensors where a model's tensors are expected, such as "
            f"{wrong[0]!r}. It is not a checkpoint in a form that tadp knows."
        )
    state = {str(key): value for key, value in content.items()}
    if all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state, rest


def recognise(state: Mapping[str, Tensor], path: Path) -> Form:
    """Recognise the form of a file.

    Raises:
        ModelError: If it is another kind of file; the message says which, if tadp can recognise it.
    """
    unets = {key.removesuffix(_FIRST) for key in state if key.endswith(_FIRST)}
    has_neck = any(key.startswith("neck.") for key in state)
    if DEPTH.unet in unets:
        return DEPTH
    if MMSEG.unet in unets:
        return MMSEG if has_neck else MMSEG_DEPTH
    if SEGMENTATION.unet in unets:
        return SEGMENTATION
    if DETECTION.unet in unets:
        return PASCAL if any(key.startswith("decode_head.decoder.") for key in state) else DETECTION
    raise ModelError(f"{path} is not a file of the paper's release, VPD or mmseg's VPD: {_describe(state, unets)}")


def _describe(state: Mapping[str, Tensor], unets: set[str]) -> str:
    keys = list(state)
    if "model." in unets:
        return "it is a whole Stable Diffusion checkpoint without a head. Load it in diffusers' layout as a backbone."
    if any("lora" in key.lower() for key in keys):
        return "it is a LoRA, which belongs to a U-Net. Load it with diffusers, or train a task model with tune='lora'."
    if any(key.startswith(("down_blocks.", "unet.down_blocks.")) for key in keys):
        return "it is a U-Net in diffusers' layout, without a head. Put it into a TADPBackbone."
    if unets:
        return f"its U-Net is under {', '.join(sorted(unets))}, which none of them uses."
    return f"it has no U-Net under LDM's names; its {len(keys)} tensors begin with {', '.join(keys[:3])}."
