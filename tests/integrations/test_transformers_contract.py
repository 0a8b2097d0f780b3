"""The backbone does what transformers documents for backbones and models; every public name is tested or left out."""

import json

import pytest
import torch
from builders import build_folder, images
from builders_families import build_family
from contracts import check_covered, is_at_least, public_names
from diffusers import AutoencoderTiny
from running import run_script
from transformers import AutoConfig, AutoModel, UperNetConfig, UperNetForSemanticSegmentation
from transformers.backbone_utils import BackboneConfigMixin, BackboneMixin, BackboneType
from transformers.modeling_outputs import BackboneOutput
from transformers.modeling_utils import PreTrainedModel

import tadp
from tadp.errors import ModelError
from tadp.integrations import Pyramid
from tadp.integrations.transformers import TADPConfig, TADPModel

PIXELS = images(2, 64, 64)


@pytest.fixture(scope="module")
def base(model_source):
    return str(model_source)


@pytest.fixture(scope="module")
def model(base):
    """A model with two of four stages; tests put it back into evaluation mode."""
    return TADPModel(TADPConfig(base_model=base, out_features=["stride8", "stride32"], text="a dog")).eval()


@torch.no_grad()
def test_the_output_is_that_of_transformers_own_backbones(model):
    output = model(PIXELS)
    assert isinstance(output, BackboneOutput)
    assert isinstance(output.feature_maps, tuple)
    assert [level.shape[:2] for level in output.feature_maps] == [(2, channels) for channels in model.channels]
    assert (output.hidden_states, output.attentions) == (None, None)
    every = model(PIXELS, output_hidden_states=True, output_attentions=True)
    assert len(every.hidden_states) == len(model.stage_names) == 4
    assert every.attentions is None
    for index, level in zip(model.out_indices, output.feature_maps, strict=True):
        torch.testing.assert_close(every.hidden_states[index], level)
    filtered = model.forward_with_filtered_kwargs(PIXELS, output_attentions=True)
    torch.testing.assert_close(filtered.feature_maps, output.feature_maps)


@torch.no_grad()
def test_the_config_chooses_what_a_call_does_not(model, monkeypatch):
    monkeypatch.setattr(model.config, "output_hidden_states", True)
    assert len(model(PIXELS).hidden_states) == 4
    assert model(PIXELS, output_hidden_states=False).hidden_states is None
    monkeypatch.setattr(model.config, "return_dict", False)
    maps, hidden = model(PIXELS)
    assert (len(maps), len(hidden)) == (2, 4)
    (maps,) = model(PIXELS, output_hidden_states=False)
    assert isinstance(model(PIXELS, return_dict=True), BackboneOutput)


def test_stages_are_chosen_by_name_or_number(base):
    model = TADPModel(TADPConfig(base_model=base, text="a dog"))
    assert model.backbone_type is BackboneType.TRANSFORMERS
    assert not model.has_attentions
    assert list(model.out_feature_channels) == model.stage_names == ["stride8", "stride16", "stride32", "stride64"]
    model.out_indices = [1, 3]
    assert model.out_features == model.config.out_features == ["stride16", "stride64"]
    model.out_features = ["stride8"]
    assert (model.out_indices, model.config.out_indices, len(model.channels)) == ([0], [0], 1)
    config = model.config
    config.set_output_features_output_indices(out_features=None, out_indices=[-1])
    config.verify_out_features_out_indices()
    assert config.out_features == ["stride64"]
    with pytest.raises(ValueError, match=r"must be in the same order as stage_names"):
        config.out_features = ["stride16", "stride8"]


def test_a_config_goes_through_json(model, tmp_path):
    values = json.loads(model.config.to_json_string(use_diff=False))
    assert (values["out_features"], values["out_indices"]) == (["stride8", "stride32"], [0, 2])
    again = TADPConfig.from_dict(values)
    assert again.to_dict() == model.config.to_dict()
    model.config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path).to_dict()
    assert loaded | {"_name_or_path": ""} == again.to_dict()
    assert TADPConfig().stage_names == []


def test_auto_classes_build_and_load_it(model, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len([*tmp_path.glob("*.safetensors")]) > 1
    loaded = AutoModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert type(loaded) is TADPModel
    assert loaded.dtype == loaded.pyramid.backbone.dtype == torch.bfloat16
    for name, weight in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight.bfloat16()), name
    assert type(AutoModel.from_config(model.config)) is TADPModel


LOAD = """
import json, sys
from transformers import AutoModel, UperNetForSemanticSegmentation
messages = []
for load in (UperNetForSemanticSegmentation.from_pretrained, AutoModel.from_pretrained):
    try:
        load(sys.argv[1] + load.__self__.__name__)
    except (KeyError, ValueError) as error:
        messages.append(f"{type(error).__name__}: {error}")
import tadp.integrations.transformers
for load in (UperNetForSemanticSegmentation.from_pretrained, AutoModel.from_pretrained):
    messages.append(type(load(sys.argv[1] + load.__self__.__name__)).__name__)
print(json.dumps(messages))
"""


def test_importing_the_adapter_is_enough_and_without_it_transformers_says_so(model, tmp_path):
    upernet = UperNetConfig(backbone_config=model.config, num_labels=3, hidden_size=8, use_auxiliary_head=False)
    UperNetForSemanticSegmentation(upernet).save_pretrained(tmp_path / "UperNetForSemanticSegmentation")
    model.save_pretrained(tmp_path / "AutoModel")
    (tmp_path / "load.py").write_text(LOAD, encoding="utf-8")
    result = run_script(tmp_path / "load.py", f"{tmp_path}/")
    unknown, unrecognized, *classes = json.loads(result.stdout.splitlines()[-1])
    assert unknown == "KeyError: 'tadp'"
    assert "has model type `tadp` but Transformers does not recognize this architecture" in unrecognized
    assert classes == ["UperNetForSemanticSegmentation", "TADPModel"]


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*deprecated:FutureWarning")
def test_gradient_checkpointing_changes_no_gradient(model):
    def gradients():
        model.zero_grad()
        sum(level.square().mean() for level in model.train()(PIXELS).feature_maps).backward()
        return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}

    expected = gradients()
    model.gradient_checkpointing_enable()
    assert model.pyramid.backbone.unet.is_gradient_checkpointing
    assert model.is_gradient_checkpointing
    actual = gradients()
    model.gradient_checkpointing_disable()
    assert not model.pyramid.backbone.unet.is_gradient_checkpointing
    model.eval()
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, msg=name)


def test_input_embeddings_are_what_reads_the_pixels(model):
    layer = model.get_input_embeddings()
    assert layer is model.pyramid.backbone.vae.encoder.conv_in
    assert model.get_output_embeddings() is None
    model.enable_input_require_grads()
    outputs = []
    hook = layer.register_forward_hook(lambda *call: outputs.append(call[2].requires_grad))
    model(PIXELS)
    model.disable_input_require_grads()
    model(PIXELS)
    hook.remove()
    assert outputs == [True, False]


@torch.no_grad()
def test_the_attention_of_the_text_encoder_can_be_set(model):
    encoder, expected = model.pyramid.backbone.text_encoder.model, model(PIXELS).feature_maps
    for name in ("eager", "sdpa") if is_at_least("transformers", "5.24") else ("eager",):  # 5.17 sets it only once
        model.set_attn_implementation(name)
        assert (model.config._attn_implementation, encoder.config._attn_implementation) == (name, name)
        torch.testing.assert_close(model(PIXELS).feature_maps, expected)
    with pytest.raises(ValueError, match=r"TADPModel does not support .*[Ff]lex"):
        model.set_attn_implementation("flex_attention")
    assert TADPModel(TADPConfig(base_model="tadp-tiny", text="", attn_implementation="sdpa"))


@torch.no_grad()
def test_a_call_is_deterministic_and_each_image_stands_for_itself(model):
    both, again = model(PIXELS).feature_maps, model(PIXELS).feature_maps
    first = model(PIXELS[:1]).feature_maps
    for level, other, single in zip(both, again, first, strict=True):
        assert torch.equal(level, other)
        torch.testing.assert_close(level[:1], single, atol=1e-5, rtol=1e-4)


def test_training_mode_leaves_vae_and_text_encoder_alone(model):
    backbone = model.train().pyramid.backbone
    assert (backbone.unet.training, backbone.vae.training, backbone.text_encoder.training) == (True, False, False)
    assert not model.eval().training


def test_dtype_device_and_size_are_those_of_the_weights(base):
    model = TADPModel(TADPConfig(base_model=base, text="a dog"))
    weights = sum(weight.numel() for weight in model.parameters())
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert (model.num_parameters(), model.num_parameters(only_trainable=True)) == (weights, trained)
    assert model.get_memory_footprint(return_buffers=False) == 4 * weights
    for convert, dtype in ((model.half, torch.float16), (model.float, torch.float32)):
        assert convert().dtype == model.pyramid.backbone.dtype == dtype
    assert (model.to(torch.bfloat16).dtype, model.device.type) == (torch.bfloat16, "cpu")


@torch.no_grad()
@pytest.mark.parametrize("family", ["SDXL", "SD 3", "FLUX", "AutoencoderTiny"])
def test_a_config_describes_each_family(family, tmp_path):
    if family == "AutoencoderTiny":
        folder = build_folder(tmp_path / "base")
        widths = {"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
        AutoencoderTiny(**widths).save_pretrained(folder / "vae")
    else:
        folder = build_family(family, tmp_path / "base")
    model = TADPModel(TADPConfig(base_model=str(folder), text="a dog and a cat")).eval()
    assert [f"stride{stride}" for stride in model.pyramid.backbone.strides] == model.stage_names
    expected = model(PIXELS).feature_maps
    model.save_pretrained(tmp_path / "model")
    folder.rename(tmp_path / "elsewhere")
    again = AutoModel.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(again(PIXELS).feature_maps, expected)
    assert [weight.requires_grad for weight in again.parameters()] == [
        weight.requires_grad for weight in model.parameters()
    ]
    if family == "AutoencoderTiny":
        backbone = tadp.TADPBackbone.from_pretrained(tmp_path / "elsewhere")
        with pytest.raises(ModelError, match=r"^an AutoencoderTiny has no map at stride 4"):
            Pyramid(backbone, stride4="vae", text="")


def test_an_unknown_vae_is_refused(base):
    parts = TADPConfig(base_model=base).parts
    with pytest.raises(ModelError, match=r"describes a VAE of the class 'VQModel'; tadp reads AutoencoderKL, Auto"):
        TADPConfig(parts=parts | {"vae": parts["vae"] | {"_class_name": "VQModel"}})


TESTED = {
    "test_the_output_is_that_of_transformers_own_backbones": ["forward", "forward_with_filtered_kwargs"],
    "test_stages_are_chosen_by_name_or_number": [
        "backbone_type", "has_attentions", "out_feature_channels", "out_features", "out_indices", "channels",
        "set_output_features_output_indices", "verify_out_features_out_indices",
    ],
    "test_a_config_goes_through_json": ["to_dict", "config_class"],
    "test_auto_classes_build_and_load_it": ["from_pretrained", "save_pretrained"],
    "test_gradient_checkpointing_changes_no_gradient": [
        "gradient_checkpointing_enable", "gradient_checkpointing_disable", "activation_checkpointing_enable",
        "activation_checkpointing_disable", "is_gradient_checkpointing", "is_activation_checkpointing",
        "supports_gradient_checkpointing",
    ],
    "test_input_embeddings_are_what_reads_the_pixels": [
        "get_input_embeddings", "get_output_embeddings", "enable_input_require_grads", "disable_input_require_grads",
        "main_input_name", "input_modalities",
    ],
    "test_the_attention_of_the_text_encoder_can_be_set": [
        "set_attn_implementation", "get_correct_attn_implementation",
    ],
    "test_training_mode_leaves_vae_and_text_encoder_alone": ["train", "eval"],
    "test_dtype_device_and_size_are_those_of_the_weights": [
        "num_parameters", "get_memory_footprint", "half", "float", "to", "dtype", "device",
    ],
    "test_a_config_describes_each_family": [
        "tie_weights", "get_expanded_tied_weights_keys", "mark_tied_weights_as_initialized", "post_init",
        "init_weights", "initialize_weights", "named_non_persistent_buffers",
    ],
}  # fmt: skip
LEFT_OUT = {
    "only for text: a backbone has no vocabulary, decoder or generation": [
        "can_generate", "generation_config_class", "get_decoder", "set_decoder", "get_encoder", "set_encoder",
        "resize_token_embeddings", "get_position_embeddings", "resize_position_embeddings", "set_output_embeddings",
        "warn_if_padding_and_no_attention_mask",
    ],
    "transformers says itself that it is not handled for this model": ["set_input_embeddings"],
    "adapters of peft are added to backbone.unet, which test_reload.py tests": [
        "active_adapters", "add_adapter", "delete_adapter", "disable_adapters", "enable_adapters",
        "enable_peft_hotswap", "get_adapter_state_dict", "load_adapter", "set_adapter",
    ],
    "parallel plans are for language models; test_unused_layers.py tests DDP": [
        "barrier_after_gathered_checkpoint_save", "ep_plan", "fsdp_plan", "fsdp_size",
        "gather_sharded_state_dict_for_save", "init_parallel_plans", "is_distributed_loading_by_transformers",
        "maybe_distribute_model", "pp_plan", "prepare_distribute_model", "save_distributed_checkpoint",
        "should_save_on_this_rank", "supports_context_parallel", "supports_pp_plan", "supports_tp_plan", "tp_plan",
        "tp_size",
    ],
    "mixtures of experts do not occur in base models": [
        "get_correct_experts_implementation", "get_experts_implementation", "set_experts_implementation",
    ],
    "kernels of the hub replace layers of transformers only": ["set_use_kernels", "use_kernels"],
    "quantization is an option of TADPBackbone.from_pretrained": ["dequantize"],
    "test_compile_parts.py and docs/export.md cover compiling": ["get_compiled_call"],
    "recorded outputs are those of layers of transformers; a backbone returns attention itself": ["can_record_outputs"],
    "needs a GPU, and then does what `to` does": ["cuda"],
    "a loss is that of the outer model, which test_integrations_transformers.py trains": ["loss_function"],
    "needs the hub; save_pretrained, which it calls, is tested": ["push_to_hub", "add_model_tags", "model_tags"],
    "code of a model is never loaded from the hub": ["register_for_auto_class", "is_custom_code", "is_remote_code"],
    "transformers uses it while it loads, which test_auto_classes_build_and_load_it tests": [
        "base_model", "base_model_prefix", "dummy_inputs", "get_init_context", "get_parameter_or_buffer",
        "is_backend_compatible", "retrieve_modules_from_names",
    ],
}  # fmt: skip
ONLY_OLD = {  # of transformers 5.11 and 5.12
    "create_extended_attention_mask_for_decoder", "get_extended_attention_mask", "invert_attention_mask", "kernelize",
}  # fmt: skip


def test_every_name_of_transformers_interface_is_tested_or_left_out():
    own = [kind for kind in PreTrainedModel.__mro__ if kind not in torch.nn.Module.__mro__]
    names = public_names(BackboneMixin, BackboneConfigMixin, *own) - ONLY_OLD
    check_covered(names, written_for=("transformers", "5.24.0"), tested=TESTED, left_out=LEFT_OUT, tests=globals())
