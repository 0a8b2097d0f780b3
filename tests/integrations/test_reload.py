"""A saved model gives back the weights of the backbone inside, or refuses to be saved or loaded."""

import re
from pathlib import Path

import pytest
import torch
import transformers
from builders import build_backbone, build_folder, images
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import ConditionalDetrConfig, DeformableDetrConfig, DetrConfig
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, get_model_conversion_mapping

import tadp
from tadp.errors import ModelError
from tadp.integrations.transformers import TADPConfig, TADPModel, register

register()
DETR = {
    "use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None, "d_model": 32, "encoder_layers": 1,
    "decoder_layers": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "num_queries": 4, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return build_folder(tmp_path_factory.mktemp("base") / "sd")


def text_config(base, **options):
    return TADPConfig(base_model=str(base), text="a dog on grass", **options)


def weights_of(model):
    (inner,) = (part for part in model.modules() if isinstance(part, TADPModel))
    return inner.state_dict()


@pytest.mark.parametrize("config_class", [DetrConfig, ConditionalDetrConfig, DeformableDetrConfig])
def test_models_that_rename_weights_leave_the_backbones_alone(config_class, base, tmp_path):
    name = config_class.__name__.replace("Config", "ForObjectDetection")
    levels = {"out_indices": [1, 2], "num_feature_levels": 2} if "Deformable" in name else {"out_indices": [-1]}
    backbone = text_config(base, out_indices=levels.pop("out_indices"))
    model = getattr(transformers, name)(config_class(backbone_config=backbone, **DETR, **levels)).eval()
    model.save_pretrained(tmp_path / "model")
    again = type(model).from_pretrained(tmp_path / "model")
    expected, loaded = weights_of(model), weights_of(again)
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in expected.items())
    with torch.no_grad():
        logits = [network(images(1, 64, 64)).logits for network in (model, again)]
    torch.testing.assert_close(*logits, atol=1e-5, rtol=1e-5)


def classes_with_a_backbone():
    """Names under which transformers lists the renamings of its models that take a backbone, and of their parts."""
    for path in (Path(transformers.__file__).parent / "models").glob("*/modeling_*.py"):
        text = path.read_text(encoding="utf-8")
        if "load_backbone(" in text or path.parent.name in ("maskformer", "omdet_turbo"):
            yield path.parent.name
            yield from re.findall(r"^class (\w+)\(", text, re.MULTILINE)


def renamed(name, transforms, *, operations_first=False):
    """The name of a weight after saving or loading, and whether an operation would change its value."""
    is_changed = False
    for transform in sorted(transforms, key=lambda change: hasattr(change, "operations") is not operations_first):
        name, pattern = transform.rename_source_key(name)
        is_changed |= hasattr(transform, "operations") and pattern is not None
    return name, is_changed


def test_every_class_that_takes_a_backbone_keeps_the_names_of_its_weights(base):
    model = TADPModel(text_config(base))
    own, legacy = get_model_conversion_mapping(model, add_legacy=False), get_checkpoint_conversion_mapping("legacy")
    unlike = {re.sub(r"\d+", "0", name): name for name in model.state_dict()}.values()  # one of each numbered series
    names = [f"model.encoder.{name}" for name in unlike]
    identifiers, renaming = set(classes_with_a_backbone()), set()
    assert {"DetrModel", "UperNetForSemanticSegmentation", "mask2former", "rt_detr"} <= identifiers
    for identifier in sorted(identifiers):
        outer = get_checkpoint_conversion_mapping(identifier) or []
        # Transforms of prefixes are not used for models that are built from a config.
        outer = [change for change in outer if "Prefix" not in type(change).__name__]
        reverse = [transform.reverse_transform() for transform in [*outer, *own][::-1]]
        for name in names if outer else ():
            saved, is_changed = renamed(name, reverse, operations_first=True)
            again, changes = renamed(saved, [*outer, *own, *legacy])
            assert (again.partition("pyramid.")[2], is_changed, changes) == (
                name.partition("pyramid.")[2],
                False,
                False,
            )
            if renamed(name, outer)[0] != name:
                renaming.add(identifier)
    assert {"DetrModel", "ConditionalDetrModel", "deformable_detr"} <= renaming  # they would rename it without our rule


def test_a_saved_model_that_lacks_weights_is_refused(base, tmp_path):
    TADPModel(text_config(base)).save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    tensors = load_file(path)
    absent = next(name for name in tensors if name.endswith("OUT_PROJ.WEIGHT"))
    assert absent.startswith("pyramid.BACKBONE.TEXT_ENCODER.")
    save_file({name: tensor for name, tensor in tensors.items() if name != absent}, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"the saved model lacks the backbone's .*out_proj.weight, or has it under"):
        TADPModel.from_pretrained(tmp_path / "model")


def test_names_of_older_files_are_read(base, tmp_path):
    model = TADPModel(text_config(base))
    model.save_pretrained(tmp_path / "model")
    save_file(model.state_dict(), tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    again = TADPModel.from_pretrained(tmp_path / "model")
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


LORA = {"r": 2, "target_modules": ["to_q", "to_k"], "init_lora_weights": False}


def wrapped(backbone):
    backbone.unet = get_peft_model(backbone.unet, LoraConfig(**LORA))


def injected(backbone):
    backbone.unet.add_adapter(LoraConfig(**LORA))


@pytest.mark.parametrize(("change", "message"), [
    (wrapped, r"a PeftModel of peft. Merge the adapter first: backbone.unet = backbone.unet.merge_and_unload\(\)"),
    (injected, r"peft added an adapter; merge it first, with fuse_lora\(\) .* merge_and_unload\(\), or save"),
])  # fmt: skip
def test_an_adapter_of_peft_is_refused_when_saving_until_it_is_merged(change, message, base, tmp_path):
    backbone = build_backbone()
    change(backbone)
    with pytest.raises(ModelError, match=message):
        backbone.save_pretrained(tmp_path / "backbone")
    assert not (tmp_path / "backbone" / "unet").exists()
    model = TADPModel(text_config(base))
    change(model.pyramid.backbone)
    with pytest.raises(ModelError, match=r"peft added an adapter; merge it first"):
        model.save_pretrained(tmp_path / "model")
    if change is wrapped:
        backbone.unet = backbone.unet.merge_and_unload()
    else:
        backbone.unet.fuse_lora()
        backbone.unet.unload_lora()
    backbone.save_pretrained(tmp_path / "backbone")
    again = tadp.TADPBackbone.from_pretrained(tmp_path / "backbone")
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in backbone.state_dict().items())


def test_a_part_that_torch_compile_wrapped_is_saved_as_it_is_inside(base, tmp_path):
    backbone, model = build_backbone(), TADPModel(text_config(base))
    expected = [build_backbone().state_dict(), model.state_dict()]
    for part in (backbone, model.pyramid.backbone):
        part.unet = torch.compile(part.unet, backend="eager")
        part.text_encoder.model = torch.compile(part.text_encoder.model, backend="eager")
    backbone.save_pretrained(tmp_path / "backbone")
    assert sorted(path.name for path in (tmp_path / "backbone").iterdir() if path.is_dir()) == [
        "text_encoder", "tokenizer", "unet", "vae",
    ]  # fmt: skip
    model.save_pretrained(tmp_path / "model")
    again = [tadp.TADPBackbone.from_pretrained(tmp_path / "backbone"), TADPModel.from_pretrained(tmp_path / "model")]
    for loaded, tensors in zip(again, expected, strict=True):
        assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in tensors.items())
