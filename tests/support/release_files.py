"""Files as the code of the paper, VPD and mmseg saves them, written from small models of ours."""

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import originals
import torch
from builders import WIDTH, build_unet
from torch import Tensor, nn

from tadp import Conditioning, TADPBackbone
from tadp.convert import Report, convert_file
from tadp.images.boxes import Boxes
from tadp.language.class_names import NYU_ROOMS, VOC_CLASSES
from tadp.tasks import TADPForDepthEstimation, TADPForObjectDetection, TADPForSemanticSegmentation, TaskModel

CLASSES = ["sky", "tree", "house"]
PASCAL_CLASSES = ["background", "airplane", *VOC_CLASSES[1:]]  # the code of the paper writes "airplane"


@dataclass
class Original:
    """The content of a file, and the model it was written from."""

    model: TaskModel
    state: dict[str, Tensor]
    wrap: Any = lambda state: state
    options: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> Path:
        torch.save(self.wrap(self.state), path)
        return path


def backbone_of(base: Path, **options: Any) -> TADPBackbone:
    """The base model with another U-Net and text adapter, as if they had been trained."""
    backbone = TADPBackbone.from_pretrained(base, unet=build_unet(seed=5), timestep=1, **options)
    if backbone.text_adapter is not None:
        randomise(backbone.text_adapter, seed=6)
    return backbone


def randomise(module: nn.Module, *, seed: int) -> None:
    """Give every tensor, running statistics included, values that no constructor would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.2 + 0.05)
            else:
                tensor.fill_(7)


def class_embeddings(count: int) -> Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(9))


def whole(backbone: TADPBackbone, prefix: str, *, vae: bool = True, text: bool = True) -> dict[str, Tensor]:
    """The parts of Stable Diffusion other than the U-Net that the release saves."""
    assert backbone.text_encoder is not None
    state = originals.write_schedule(prefix)
    state |= originals.write_vae(backbone.vae, f"{prefix}first_stage_model.") if vae else {}
    return state | (
        originals.write_text(backbone.text_encoder.model, f"{prefix}cond_stage_model.transformer.") if text else {}
    )


def depth_model(backbone: TADPBackbone, **options: Any) -> TADPForDepthEstimation:
    options = {
        "max_depth_m": 10.0,
        "window_px": 480,
        "taper_windows": False,
        "pad_with_grey": True,
        "head_options": {"channels": 8, "deconv_channels": [32, 16, 8]},
    } | options
    model = TADPForDepthEstimation(backbone, **options).eval()
    randomise(model.head, seed=1)
    return model


def segmentation_model(backbone: TADPBackbone, **options: Any) -> TADPForSemanticSegmentation:
    options = {"class_names": CLASSES, "head_options": {"fpn_channels": 8, "channels": 12}} | options
    model = TADPForSemanticSegmentation(backbone, window_px=512, stride_px=341, **options).eval()
    randomise(model.head, seed=1)
    return model


def tadp_depth(base: Path) -> Original:
    """The released depth model: captions and scaled latents.

    The file has the U-Net and the VAE twice, and class embeddings and a gamma that are not used.
    """
    model = depth_model(backbone_of(base, attach_attention=()))
    backbone = model.backbone
    unet = originals.write_unet(backbone.unet, "encoder.unet.unet.diffusion_model.", output=False)
    copy = {key.replace("encoder.unet.unet.", "encoder.sd_model.model."): value for key, value in unet.items()}
    state = unet | copy | originals.write_vae(backbone.vae, "encoder.encoder_vq.")
    state |= whole(backbone, "encoder.sd_model.") | originals.write_depth_head(model.head)
    state |= {"encoder.class_embeddings": class_embeddings(27), "encoder.gamma": torch.full((WIDTH,), 1e-4)}
    return Original(
        model,
        {f"module.{key}": value for key, value in state.items()},
        lambda state: {"model": state, "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": []}},
    )


def vpd_depth(base: Path) -> Original:
    embeddings = class_embeddings(27)
    model = depth_model(
        backbone_of(base, attach_attention=(), scale_latents=False, text_adapter=True),
        prompt_mode="stored",
        prompt_classes=(*NYU_ROOMS, "any_room"),
        own_class=True,
        default_class="any_room",
    )
    model.store_text(Conditioning(torch.cat([embeddings, embeddings.mean(dim=0, keepdim=True)])[None]))
    backbone = model.backbone
    assert backbone.text_adapter is not None
    state = originals.write_unet(backbone.unet, "encoder.unet.unet.diffusion_model.", output=False)
    state |= originals.write_vae(backbone.vae, "encoder.encoder_vq.") | originals.write_depth_head(model.head)
    state |= originals.write_adapter(backbone.text_adapter, "encoder.") | {"encoder.class_embeddings": embeddings}
    return Original(model, state, lambda state: {"model": state})


def mmseg_depth(base: Path) -> Original:
    """mmseg's depth model: the 28th class embedding is the mean of the others, and the VAE includes its decoder."""
    vpd = vpd_depth(base)
    backbone = vpd.model.backbone
    assert backbone.text_adapter is not None
    embeddings = class_embeddings(27)
    state = originals.write_unet(backbone.unet, "backbone.unet.unet.diffusion_model.")
    state |= originals.write_vae(backbone.vae, "backbone.encoder_vq.")
    state |= {"backbone.encoder_vq.decoder.conv_in.weight": torch.zeros(3)}
    state |= originals.write_adapter(backbone.text_adapter, "backbone.")
    state |= {"backbone.class_embeddings": torch.cat([embeddings, embeddings.mean(dim=0, keepdim=True)])}
    state |= originals.write_mmseg_depth_head(vpd.model.head)
    return Original(vpd.model, state, lambda state: {"meta": {"dataset_meta": {}}, "state_dict": state})


def mmcv_meta(**more: object) -> dict[str, object]:
    """Metadata as mmcv 1.6 saves it with the best weights; the score is a numpy scalar."""
    return {"epoch": 1, "iter": 80000, "hook_msgs": {"best_score": np.float64(0.53)}, "CLASSES": tuple(CLASSES)} | more


def tadp_segmentation(base: Path) -> Original:
    """The released ADE20K model: captions and scaled latents. The VAE is saved only within `sd_model`."""
    model = segmentation_model(backbone_of(base))
    state = originals.write_unet(model.backbone.unet, "unet.unet.diffusion_model.")
    state |= whole(model.backbone, "sd_model.") | originals.write_mmcv_head(model.head)
    return Original(model, state, lambda state: {"meta": mmcv_meta(), "state_dict": state, "optimizer": {}})


def vpd_segmentation(base: Path) -> Original:
    """VPD's segmentation model: one embedding and one attention map per class, and unscaled latents."""
    backbone = backbone_of(base, scale_latents=False, text_adapter=True, text_length=3)
    model = segmentation_model(backbone, prompt_mode="stored")
    embeddings = class_embeddings(3)
    model.store_text(Conditioning(embeddings[None]))
    assert backbone.text_adapter is not None
    state = originals.write_unet(backbone.unet, "unet.unet.diffusion_model.")
    state |= originals.write_vae(backbone.vae, "encoder_vq.") | originals.write_adapter(backbone.text_adapter, "")
    state |= whole(backbone, "sd_model.", vae=False, text=False) | {"class_embeddings": embeddings}
    state |= originals.write_mmcv_head(model.head)
    return Original(model, state, lambda state: {"meta": mmcv_meta(), "state_dict": state})


def pascal_model(backbone: TADPBackbone, **options: Any) -> TADPForSemanticSegmentation:
    """The paper's model for Pascal VOC, with the decoder of segmentation_models_pytorch and focal loss."""
    head = {"head": "smp_fpn", "loss": "focal", "head_options": {"fpn_channels": 8, "channels": 64}}
    return segmentation_model(backbone, **(head | options))


def tadp_pascal(base: Path) -> Original:
    """A checkpoint of Lightning: captions and scaled latents.

    It has class embeddings and a text adapter that are not used, and layers for tokens that never run.
    """
    model = pascal_model(backbone_of(base), class_names=PASCAL_CLASSES)
    state = originals.write_unet(model.backbone.unet, "model.unet.diffusion_model.")
    state |= whole(model.backbone, "sd_model.") | originals.write_smp_head(model.head)
    state |= {"class_embeddings": class_embeddings(21), "gamma": torch.full((WIDTH,), 1e-4)}
    state |= {f"text_adapter.fc.{layer}.weight": torch.zeros(WIDTH, WIDTH) for layer in (0, 2)}
    state |= {"reduce_embeds.weight": torch.zeros(8, WIDTH), "reduce_embeds.bias": torch.zeros(8)}
    score = {"ModelCheckpoint": {"best_model_score": torch.tensor(0.1), "best_model_path": "last.ckpt"}}
    training = {
        **{"epoch": 14, "global_step": 19830, "pytorch-lightning_version": "2.0.0", "callbacks": score},
        **{"loops": {}, "optimizer_states": [], "lr_schedulers": [], "hparams_name": "kwargs"},
        "hyper_parameters": {"class_names": PASCAL_CLASSES, "ignore_index": 255, "cfg": {"decode_head": "FPN"}},
    }
    return Original(model, state, lambda state: {"state_dict": state, **training})


def vpd_pascal(base: Path) -> Original:
    """A bare state dict: class embeddings, a text adapter that was trained, and unscaled latents."""
    backbone = backbone_of(base, scale_latents=False, text_adapter=True, text_length=21)
    names = ["background", *VOC_CLASSES]
    model = pascal_model(backbone, class_names=names, prompt_classes=names, prompt_mode="stored")
    embeddings = class_embeddings(21)
    model.store_text(Conditioning(embeddings[None]))
    assert backbone.text_adapter is not None
    state = originals.write_unet(backbone.unet, "model.unet.diffusion_model.")
    state |= originals.write_vae(backbone.vae, "encoder_vq.") | originals.write_adapter(backbone.text_adapter, "")
    state |= whole(backbone, "sd_model.", vae=False, text=False) | {"class_embeddings": embeddings}
    return Original(model, state | originals.write_smp_head(model.head))


def tadp_detection(base: Path) -> Original:
    """The released Watercolor2k model: captions and ImageNet's normalisation.

    The file is a bare state dict, with a text adapter and a ResNet that are not used.
    """
    model = TADPForObjectDetection(
        backbone_of(base, imagenet_pixels=True),
        class_names=[f"thing {number}" for number in range(20)],
        head_options={"channels": 8, "hidden_channels": 16},
        keep_ratio=False,
    ).eval()
    randomise(model.head, seed=1)
    state = originals.write_unet(model.backbone.unet, "model.unet.diffusion_model.")
    state |= whole(model.backbone, "sd_model.") | originals.write_detection_head(model.head)
    state |= {"class_embeddings": class_embeddings(21), "gamma": torch.full((WIDTH,), 1e-4)}
    state |= {"text_adapter.fc.0.weight": torch.zeros(WIDTH, WIDTH)}
    return Original(model, state, options={"class_names": model.class_names})


FORMS = {
    "tadp depth": tadp_depth,
    "vpd depth": vpd_depth,
    "mmseg depth": mmseg_depth,
    "tadp segmentation": tadp_segmentation,
    "vpd segmentation": vpd_segmentation,
    "tadp pascal": tadp_pascal,
    "vpd pascal": vpd_pascal,
    "tadp detection": tadp_detection,
}


@cache
def _written(form: str, base: Path) -> Original:
    return FORMS[form](base)


def original_of(form: str, base: Path) -> Original:
    """A shallow copy: a test may change its entries, but not its tensors or its model."""
    original = _written(form, base)
    return Original(original.model, dict(original.state), original.wrap, original.options)


def convert(original: Original, base: Path, folder: Path, **options: Any) -> tuple[TaskModel, Report]:
    path = original.save(folder / "file.pth")
    report = convert_file(path, folder / "made", base_model=base, **(original.options | options))
    return type(original.model).from_pretrained(folder / "made"), report


def output_of(model: TaskModel, pixels: Tensor) -> Tensor:
    caption = "a dog and a cat" if model.prompt_mode == "captions" else None
    with torch.no_grad():
        if isinstance(model, TADPForObjectDetection):
            # A random detector finds too few boxes to compare, so its losses are compared.
            boxes = [Boxes(torch.tensor([[4.0, 4.0, 40.0, 50.0]]), torch.tensor([3]))] * len(pixels)
            torch.manual_seed(0)  # Faster R-CNN samples
            return torch.stack(list(model(pixels, caption, boxes).losses.values()))
        output = model(pixels, caption)
        return output.depth_m if isinstance(model, TADPForDepthEstimation) else output.logits
