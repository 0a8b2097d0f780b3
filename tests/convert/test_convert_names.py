"""The names of LDM and torchvision, compared with the names in their own code."""

import originals
import pytest
import torch
from builders import build_sd2_unet, build_text_encoder, build_unet, build_vae
from golden import GOLDEN
from torchvision.models import resnet18
from torchvision.models.detection import FasterRCNN
from torchvision.ops import FeaturePyramidNetwork

from tadp.convert.forms import DETECTION
from tadp.convert.head_weights import head_names
from tadp.convert.key_names import ldm_text_names, ldm_unet_names, ldm_vae_names
from tadp.diffusion.loading.networks import load_unet, load_vae
from tadp.diffusion.vae import VAEEncoder
from tadp.features import FeatureInfo
from tadp.heads import DetectionHead


@pytest.mark.parametrize("unet", [build_unet(), build_sd2_unet(), build_unet(layers_per_block=2, channels=(8, 16, 16))])
def test_unet_names_are_those_of_diffusers_own_conversion(unet):
    names = ldm_unet_names(unet)
    assert names == originals.ldm_unet(unet)
    assert len(set(names.values())) == len(names) == len(unet.state_dict())


def test_vae_names_are_those_of_diffusers_own_conversion():
    vae = VAEEncoder(build_vae())
    names = ldm_vae_names(vae)
    assert names == originals.ldm_vae(vae)
    assert len(set(names.values())) == len(names) == len(vae.state_dict())


def test_golden_parts_too():
    unet = load_unet(GOLDEN, variant=None, dtype=torch.float32)
    assert ldm_unet_names(unet) == originals.ldm_unet(unet)
    vae = load_vae(GOLDEN, variant=None, dtype=torch.float32)
    assert ldm_vae_names(vae) == originals.ldm_vae(vae)


def test_names_of_stable_diffusion_1_5_as_its_checkpoint_has_them():
    """A few names are copied from v1-5-pruned-emaonly.ckpt: two layers per level, no attention at the coarsest."""
    names = ldm_unet_names(build_unet(layers_per_block=2))
    for here, there in {
        "conv_in.weight": "input_blocks.0.0.weight",
        "down_blocks.0.downsamplers.0.conv.weight": "input_blocks.3.0.op.weight",
        "down_blocks.1.resnets.0.conv_shortcut.weight": "input_blocks.4.0.skip_connection.weight",
        "down_blocks.3.resnets.1.conv2.weight": "input_blocks.11.0.out_layers.3.weight",
        "mid_block.attentions.0.norm.bias": "middle_block.1.norm.bias",
        "up_blocks.0.upsamplers.0.conv.weight": "output_blocks.2.1.conv.weight",
        "up_blocks.1.upsamplers.0.conv.weight": "output_blocks.5.2.conv.weight",
        "up_blocks.3.attentions.2.proj_out.weight": "output_blocks.11.1.proj_out.weight",
    }.items():
        assert names[here] == there


def test_text_names_have_the_prefix_of_2023():
    model = build_text_encoder()
    names = ldm_text_names(model)
    assert names.keys() == model.state_dict().keys()
    assert "text_model.embeddings.token_embedding.weight" in names.values()
    assert all(name.count("text_model.") == 1 for name in names.values())


def test_detection_names_are_those_of_torchvisions_modules():
    """The release has a FeaturePyramidNetwork as `fpn` and a FasterRCNN as `decode_head`."""
    info = FeatureInfo(channels=(8, 16, 16, 16), reduction=(8, 16, 32, 64))
    head = DetectionHead(info, num_classes=20)
    pyramid = FeaturePyramidNetwork([8, 16, 16, 16], 256)
    backbone = resnet18(weights=None)
    backbone.out_channels = 256
    detector = FasterRCNN(backbone, num_classes=21)
    state = {f"fpn.{key}": value for key, value in pyramid.state_dict().items()} | {
        f"decode_head.{key}": value for key, value in detector.state_dict().items() if not key.startswith("backbone.")
    }
    names = head_names(DETECTION, head, state)
    assert sorted(names.values()) == sorted(state)
    for here, there in names.items():
        assert head.state_dict()[here].shape == state[there].shape
    head.load_state_dict({here: state[there] for here, there in names.items()})
    maps = [torch.rand(1, width, 16 // 2**level, 16 // 2**level) for level, width in enumerate(info.channels)]
    expected = pyramid({str(level): level_map for level, level_map in enumerate(maps)}).values()
    for result, reference in zip(head.neck(maps), expected, strict=True):
        torch.testing.assert_close(result, reference)
