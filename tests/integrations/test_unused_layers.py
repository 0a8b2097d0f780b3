"""An adapter for some of the levels computes and trains only what they need, so plain DDP works."""

import sys

import pytest
import torch
from builders import build_backbone, build_folder, images
from integrations import module
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import DetrConfig, DetrForObjectDetection

from tadp.integrations import Pyramid
from tadp.integrations.timm import TimmFeatures
from tadp.integrations.timm import register as register_timm
from tadp.integrations.transformers import TADPConfig, TADPModel, register

register()
PIXELS = images(2, 64, 64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build_folder(tmp_path_factory.mktemp("base") / "sd")


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """A process group of one process, in which DDP already refuses parameters that get no gradient."""
    store = tmp_path_factory.mktemp("store") / "file"
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


class Summed(nn.Module):
    """The mean over all maps, which depends on every one of them."""

    def __init__(self, adapter, maps_of):
        super().__init__()
        self.adapter, self.maps_of = adapter, maps_of

    def forward(self, pixels):
        return sum(level.square().mean() for level in self.maps_of(self.adapter(pixels)))


def by_transformers(folder):
    config = TADPConfig(base_model=str(folder), text="a dog", out_indices=[2], stride4="upsampled", stride4_channels=4)
    return Summed(TADPModel(config), lambda output: output.feature_maps)


def by_detr(folder):
    model = DetrForObjectDetection(DetrConfig(
        backbone_config=TADPConfig(base_model=str(folder), text="a dog", out_indices=[-1]), use_timm_backbone=False,
        use_pretrained_backbone=False, backbone=None, d_model=16, encoder_layers=1, decoder_layers=1, num_queries=2,
        encoder_ffn_dim=16, decoder_ffn_dim=16, encoder_attention_heads=2, decoder_attention_heads=2,
    ))  # fmt: skip
    return Summed(model, lambda output: (output.logits, output.pred_boxes))


def by_mmseg(folder):
    module("mmseg").register()
    config = {"type": "TADP", "base_model": str(folder), "text": "a dog", "out_indices": (2, 3)}
    return Summed(sys.modules["mmseg.registry"].MODELS.build(config).train(), list)


def by_smp(folder):
    smp = __import__("segmentation_models_pytorch")
    module("smp").register(folder, name="tadp_levels", text="a dog", stride4="upsampled")
    encoder = smp.encoders.get_encoder("tadp_levels", weights=None, depth=4)
    return Summed(encoder, lambda maps: maps[2:])


def pyramid(**options):
    return Pyramid(build_backbone(), text="a dog", **options).train()


MODELS = {
    "Pyramid": lambda folder: Summed(pyramid(levels=(2, 3)), list),
    "Pyramid upsampled": lambda folder: Summed(pyramid(levels=(2, 3), stride4="upsampled"), list),
    "timm": lambda folder: Summed(TimmFeatures(build_backbone(), text="a dog", out_indices=1), list),
    "timm, stride 4 only": lambda folder: Summed(TimmFeatures(pyramid(stride4="upsampled"), out_indices=(0,)), list),
    "timm, VAE only": lambda folder: Summed(
        nn.Sequential(TimmFeatures(pyramid(stride4="vae"), out_indices=(0,)), One()), list
    ),
    "detectron2": lambda folder: Summed(
        module("detectron2").backbone_of(build_backbone(), text="a dog", out_features=("stride32",)), dict.values
    ),
    "mmseg": by_mmseg,
    "transformers": by_transformers,
    "DETR": by_detr,
    "smp": by_smp,
}


class One(nn.Module):
    """A trained factor, without which DDP refuses a model that does not train."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, maps):
        return [self.factor * level for level in maps]


@pytest.mark.parametrize("kind", MODELS)
def test_every_parameter_that_trains_gets_a_gradient_under_plain_ddp(kind, folder, detectron2, mmseg, one_process):
    model = MODELS[kind](folder)
    parallel = DistributedDataParallel(model)
    for _ in range(2):  # DDP notices at the second step what got no gradient at the first
        parallel(PIXELS).backward()
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert [name for name, parameter in trained.items() if parameter.grad is None] == []
    has_unet = kind != "timm, VAE only"
    assert any("unet.mid_block" in name for name in trained) == has_unet
    if kind not in ("Pyramid upsampled", "timm, stride 4 only", "smp"):
        assert not any("up_blocks.3" in name for name in trained)


def test_a_later_model_on_the_same_weights_trains_what_it_needs():
    import timm

    backbone = build_backbone()
    whole = {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    register_timm(backbone, name="shared", text="a dog")
    timm.create_model("shared", features_only=True, out_indices=(3,))
    coarse = {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    assert coarse < whole
    timm.create_model("shared", features_only=True)
    assert {name for name, parameter in backbone.named_parameters() if parameter.requires_grad} == whole
    backbone.freeze()
    timm.create_model("shared", features_only=True, out_indices=(0,))
    assert not any(parameter.requires_grad for parameter in backbone.unet.parameters())  # frozen by the user
