"""Parameter groups, compared with the released code's own rules on tensors under their original names."""

from collections.abc import Iterator

import originals
import pytest
import torch
from builders import build_backbone
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from tadp.errors import OptionError
from tadp.tasks import TADPForDepthEstimation, TADPForObjectDetection, TADPForSemanticSegmentation
from tadp.training.schedules import SCHEDULES, get_schedule

KEYS = {  # of TADP/mm_configs
    "unet": {"lr_mult": 0.1},
    "encoder_vq": {"lr_mult": 0.0},
    "text_encoder": {"lr_mult": 0.0},
    "norm": {"decay_mult": 0.0},
}
CLASSES = ["cat", "dog"]


@pytest.fixture(scope="module")
def segmentation() -> TADPForSemanticSegmentation:
    backbone = build_backbone(text_adapter=True)
    return TADPForSemanticSegmentation(backbone, class_names=CLASSES)


def original_names(model: nn.Module, unet_prefix: str, write_head) -> dict[str, nn.Parameter]:
    """The trained parameters of a task model under the names of the released code."""
    backbone, head = model.backbone, model.head
    names = {f"{unet_prefix}{there}": here for here, there in originals.ldm_unet(backbone.unet).items()}
    parameters = {there: backbone.unet.get_parameter(here) for there, here in names.items()}
    for module, write in ((head, write_head), (backbone.text_adapter, lambda part: originals.write_adapter(part, ""))):
        if module is not None:
            written = {key: value for key, value in write(module).items() if key != "decode_head.backbone.conv1.weight"}
            own = dict(module.named_parameters())
            pairs = zip(_keys(module, written), written, strict=True)
            parameters |= {there: own[here] for here, there in pairs if here in own}
    return {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}


def _keys(module: nn.Module, written: dict[str, torch.Tensor]) -> Iterator[str]:
    """The module's own keys in the order of the written ones. `write_adapter` puts the gate last."""
    keys = list(module.state_dict())
    return iter(sorted(keys, key=lambda key: key == "gate") if "gamma" in written else keys)


def settings(groups: list[dict]) -> dict[int, tuple[float, float]]:
    return {id(parameter): (g["lr"], g["weight_decay"]) for g in groups for parameter in g["params"]}


def by_name(names: dict[str, nn.Parameter], groups: list[dict]) -> dict[str, tuple[float, float]]:
    grouped = settings(groups)
    assert len(grouped) == len(names)  # each parameter is in one group, and no other parameter is trained
    return {name: grouped[id(parameter)] for name, parameter in names.items()}


def tree(parameters: dict[str, nn.Parameter]) -> nn.Module:
    """A module whose parameters have these names."""
    root = nn.Module()
    for name, parameter in parameters.items():
        *path, last = name.split(".")
        module = root
        for part in path:
            if part not in dict(module.named_children()):
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        module.register_parameter(last, parameter)
    return root


def groups_of(model: nn.Module, name: str) -> list[dict]:
    schedule = get_schedule(name)
    return model.parameter_groups(
        schedule.lr, unet_scale=schedule.unet_scale, weight_decay=schedule.weight_decay, groups=schedule.groups
    )


@pytest.mark.parametrize("name", ["ade20k-4k", "ade20k-8k", "ade20k-80k", "cityscapes-40k", "cityscapes-80k"])
def test_segmentation_trains_in_the_groups_of_mmengine(segmentation, name):
    names = original_names(segmentation, "model.unet.diffusion_model.", originals.write_mmcv_head)
    schedule = get_schedule(name)
    optimizer = {"type": "AdamW", "lr": schedule.lr, "weight_decay": schedule.weight_decay}
    build = DefaultOptimWrapperConstructor({"type": "OptimWrapper", "optimizer": optimizer}, {"custom_keys": KEYS})
    released = by_name(names, build(tree(names)).optimizer.param_groups)
    ours = by_name(names, groups_of(segmentation, name))
    assert {key: pytest.approx(value, rel=1e-12) for key, value in released.items()} == ours
    norm = "model.unet.diffusion_model.input_blocks.1.1.norm.weight"
    resnet = "model.unet.diffusion_model.input_blocks.1.0.in_layers.0.weight"
    assert ours[norm] == (schedule.lr, 0)  # what a reader of the settings would not expect
    assert ours[resnet] == pytest.approx((0.1 * schedule.lr, schedule.weight_decay))


def test_pascal_and_detection_train_in_the_groups_of_their_scripts():
    backbone = build_backbone()
    detection = TADPForObjectDetection(backbone, class_names=CLASSES)
    pascal = TADPForSemanticSegmentation(build_backbone(text_adapter=True), class_names=CLASSES, head="smp_fpn")
    cases = [
        (pascal, "pascal-15-epochs", originals.write_smp_head),
        (detection, "voc-detection-10-epochs", originals.write_detection_head),
    ]
    for model, name, write_head in cases:
        names = original_names(model, "model.unet.diffusion_model.", write_head)
        # configure_optimizers: 'lr_scale' is a key that AdamW does not read, so only the decay differs.
        released = {key: (1e-5, 0.0 if "norm" in key else 1e-2) for key in names}
        assert by_name(names, groups_of(model, name)) == released


@pytest.mark.parametrize("name", ["nyu-1-epoch", "nyu-25-epochs"])
def test_depth_trains_in_the_groups_of_its_script(name):
    backbone = build_backbone(text_adapter=True)
    model = TADPForDepthEstimation(backbone, max_depth_m=10.0)
    names = original_names(model, "encoder.unet.unet.diffusion_model.", originals.write_depth_head)
    released = {}
    for key, parameter in names.items():  # LDMOptimizerConstructor.add_params
        decay = 0.0 if len(parameter.shape) == 1 or key.endswith(".bias") else 0.1
        released[key] = (5e-4 * (0.01 if "unet" in key else 1.0), decay)
    assert by_name(names, groups_of(model, name)) == {key: pytest.approx(value) for key, value in released.items()}


def test_every_schedule_of_the_paper_names_its_groups():
    assert {name for name, schedule in SCHEDULES.items() if schedule.groups == "matrices"} == {
        "nyu-1-epoch",
        "nyu-25-epochs",
    }


def test_unknown_groups_are_refused(no_type_checker, segmentation):
    with pytest.raises(OptionError, match="groups must be one of matrices, released; got 'mmcv'"):
        segmentation.parameter_groups(1e-3, groups="mmcv")
