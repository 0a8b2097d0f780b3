"""Parts that other code changed: right maps or one sentence, and only folders that load."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from builders import build_backbone, build_unet, images
from builders_families import build_family
from torch import nn

import tadp
from tadp.errors import ModelError

Change = Callable[[tadp.TADPBackbone], Any]


def add_adapter(model: Any, *layers: str) -> None:
    peft = pytest.importorskip("peft")
    model.add_adapter(peft.LoraConfig(r=2, lora_alpha=2, target_modules=list(layers), init_lora_weights=False))


def inject_adapter(model: Any, *layers: str) -> None:
    peft = pytest.importorskip("peft")
    peft.inject_adapter_in_model(peft.LoraConfig(r=2, target_modules=list(layers)), model)


def wrap_in_peft(backbone: tadp.TADPBackbone) -> None:
    peft = pytest.importorskip("peft")
    backbone.unet = peft.get_peft_model(backbone.unet, peft.LoraConfig(r=2, target_modules=["to_q"]))


def add_ip_adapter(backbone: tadp.TADPBackbone) -> None:
    """Replace processors as diffusers' `load_ip_adapter` does on a U-Net that a pipeline shares."""
    from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0

    unet: Any = backbone.unet
    processors = {}
    for name, processor in unet.attn_processors.items():
        if "attn2" in name:
            width = unet.get_submodule(name.removesuffix(".processor")).query_dim
            processors[name] = IPAdapterAttnProcessor2_0(hidden_size=width, cross_attention_dim=16, num_tokens=(4,))
        else:
            processors[name] = type(processor)()
    unet.set_attn_processor(processors)


def compile_part(owner: Any, name: Any) -> None:
    part = torch.compile(owner[name] if isinstance(name, int) else getattr(owner, name), backend="eager")
    owner.__setitem__(name, part) if isinstance(name, int) else setattr(owner, name, part)


def fuse_and_unfuse(backbone: tadp.TADPBackbone) -> None:
    unet: Any = backbone.unet
    unet.fuse_qkv_projections()
    unet.unfuse_qkv_projections()


def fuse_vae(backbone: tadp.TADPBackbone) -> None:
    from diffusers.models.attention_processor import Attention

    for module in backbone.vae.modules():
        if isinstance(module, Attention):
            module.fuse_projections()


def offload(part: Any) -> None:
    accelerate = pytest.importorskip("accelerate")
    accelerate.cpu_offload(part, execution_device=torch.device("cpu"))


def any_unet(backbone: tadp.TADPBackbone) -> Any:
    return backbone.unet


# The changes that make a call wrong, with the words of the message.
REFUSED_CALLS: dict[str, tuple[Change, str]] = {
    "fused projections": (lambda backbone: any_unet(backbone).fuse_qkv_projections(), "attention processors of the"),
    "IP adapter": (add_ip_adapter, "attention processors of the unet were replaced"),
    "sliced attention": (lambda backbone: any_unet(backbone).set_attention_slice("auto"), "attention processors of"),
    "another U-Net": (lambda backbone: setattr(backbone, "unet", build_unet()), "attention processors of the unet"),
    "VAE offloaded": (lambda backbone: offload(backbone.vae), "the VAE has no weights here; accelerate has moved it"),
    "text encoder offloaded": (
        lambda backbone: offload(backbone.text_encoder.model),
        "text encoder has weights of float32 on meta",
    ),
    "a PeftModel": (
        wrap_in_peft,
        r"the denoiser is inside a PeftModel of peft. Merge the adapter first: backbone.unet = b",
    ),
    "FreeU": (
        lambda backbone: any_unet(backbone).enable_freeu(0.9, 0.2, 1.2, 1.4),
        r"FreeU is on .* disable_freeu\(\)",
    ),
    "a block in float16": (lambda backbone: any_unet(backbone).mid_block.half(), "unet has weights of float16 and fl"),
    "a VAE block in float16": (lambda backbone: backbone.vae.encoder.mid_block.half(), "VAE has weights of float16 an"),
}
# The changes that a call works with.
GOOD_CALLS: dict[str, Change] = {
    "U-Net compiled": lambda backbone: compile_part(backbone, "unet"),
    "block compiled": lambda backbone: compile_part(any_unet(backbone).down_blocks, 0),
    "VAE compiled": lambda backbone: compile_part(backbone.vae, "encoder"),
    "text encoder compiled": lambda backbone: compile_part(backbone.text_encoder, "model"),
    "fused and unfused": fuse_and_unfuse,
    "VAE fused": fuse_vae,
    "U-Net offloaded": lambda backbone: offload(backbone.unet),
    "VAE in bfloat16": lambda backbone: backbone.vae.bfloat16(),
    "text encoder in bfloat16": lambda backbone: backbone.text_encoder.bfloat16(),
}
# The changes with which a folder could not be loaded, with the words of the message.
REFUSED_SAVES: dict[str, tuple[Change, str]] = {
    "fused projections": (lambda backbone: any_unet(backbone).fuse_qkv_projections(), "describe .*to_qkv.* fuse_qkv_p"),
    "fused and unfused": (fuse_and_unfuse, "unet cannot be saved, because its config does not describe .*to_qkv"),
    "IP adapter": (add_ip_adapter, "unet cannot be saved, .*processor.* such as an IP adapter's"),
    "VAE fused": (fuse_vae, "VAE cannot be saved, because its config does not describe .*to_qkv"),
    "U-Net with a LoRA": (lambda backbone: add_adapter(backbone.unet, "to_q"), "unet cannot be saved.* peft added an"),
    "text encoder with a LoRA": (
        lambda backbone: inject_adapter(backbone.text_encoder.model, "q_proj"), "text encoder cannot be saved.* peft"
    ),
    "a layer replaced": (
        lambda backbone: setattr(any_unet(backbone), "conv_in", nn.Conv2d(4, 8, 5)), "does not describe conv_in.weight"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED_CALLS)
@pytest.mark.parametrize("record", [(), (0,)])
def test_a_change_that_would_give_wrong_maps_is_refused(name, record):
    backbone = build_backbone(record_attention=record)
    change, words = REFUSED_CALLS[name]
    change(backbone)
    with pytest.raises(ModelError, match=words):
        backbone(images(1, 64, 64), "a dog")


@pytest.mark.parametrize("name", GOOD_CALLS)
@pytest.mark.filterwarnings("ignore")  # of torch.compile, which cannot trace the type checker
def test_a_change_that_keeps_the_maps_is_fine(name, no_type_checker):
    expected = build_backbone(record_attention=(0,))(images(1, 64, 64), "a dog")
    backbone = build_backbone(record_attention=(0,))
    GOOD_CALLS[name](backbone)
    features = backbone(images(1, 64, 64), "a dog")
    pairs = [*zip(features.maps, expected.maps, strict=True), (features.attention.at(0), expected.attention.at(0))]
    for actual, before in pairs:
        torch.testing.assert_close(actual, before, atol=0.1, rtol=0.1)


@pytest.mark.parametrize("name", REFUSED_SAVES)
def test_a_change_that_would_give_a_folder_that_does_not_load_is_refused(name, tmp_path):
    backbone = build_backbone()
    change, words = REFUSED_SAVES[name]
    change(backbone)
    with pytest.raises(ModelError, match=words):
        backbone.save_pretrained(tmp_path / "model")
    assert not list((tmp_path / "model").rglob("*"))


@pytest.mark.parametrize("name", ["U-Net compiled", "block compiled", "VAE compiled", "text encoder compiled"])
@pytest.mark.filterwarnings("ignore")
def test_compiled_parts_are_saved_under_their_own_names(name, tmp_path):
    backbone = build_backbone()
    GOOD_CALLS[name](backbone)
    backbone.save_pretrained(tmp_path / "model")
    expected = build_backbone().state_dict()
    loaded = tadp.TADPBackbone.from_pretrained(tmp_path / "model").state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.items())


def test_offloaded_weights_are_not_saved(tmp_path):
    backbone = build_backbone()
    offload(backbone.unet)
    with pytest.raises(
        ModelError, match=r"unet cannot be saved.* has no values here; accelerate has moved it elsewhere"
    ):
        backbone.save_pretrained(tmp_path / "model")


def test_a_lora_that_tadp_did_not_add_is_not_saved_in_a_task_model(tmp_path):
    backbone = tadp.TADPBackbone.from_pretrained("tadp-tiny")
    add_adapter(backbone.unet, "to_q")
    model = tadp.TADPForSemanticSegmentation(backbone, class_names=["a", "b"], tune="lora", lora_rank=2)
    with pytest.raises(ModelError, match=r"has a LoRA 'default' that tadp did not add, with other settings \(target_"):
        model.save_pretrained(tmp_path / "model")


def test_stored_8_bit_weights_do_not_decide_the_dtype():
    backbone = build_backbone()
    expected = backbone(images(1, 64, 64), "a dog")
    any_unet(backbone).enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    assert backbone.dtype == torch.float32
    torch.testing.assert_close(backbone(images(1, 64, 64), "a dog").maps[0], expected.maps[0], atol=0.5, rtol=0.5)


def replace_processor(model: Any, part: str) -> None:
    """Replace the processor of one attention layer, as a pipeline that shares the model may do."""
    name = next(name for name in model.attn_processors if part in name)

    class Other(type(model.attn_processors[name]).__mro__[1]):
        pass

    model.set_attn_processor({**model.attn_processors, name: Other()})


@pytest.mark.parametrize(
    ("family", "part"),
    [("SD 2.x", "attn1"), ("SD 2.x", "mid_block"), ("SDXL", "attn1"), ("SD 3", "blocks.0"), ("FLUX", "blocks.0")],
)
def test_a_processor_that_does_not_record_is_noticed_too(family, part, tmp_path):
    backbone = tadp.TADPBackbone.from_pretrained(build_family(family, tmp_path))
    replace_processor(backbone.unet, part)
    with pytest.raises(ModelError, match=rf"were replaced \(by a Other in [\w.]*{part}"):
        backbone(images(1, 64, 64), "a dog")
