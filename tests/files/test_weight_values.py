"""Weights and checkpoints whose values cannot be used are refused by file and name."""

import json
from pathlib import Path

import pytest
import torch
from builders import build_folder
from builders_captioner import build_blip
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from tadp import Captioner, TADPBackbone
from tadp.diffusion.loading.lora_fusion import LORA_NAME
from tadp.errors import CorruptFileError, ModelError
from tadp.files.weight_values import check_floats, check_weights

LAYER = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q"


def changed(path: Path, name: str, dtype: torch.dtype) -> str:
    """Store one tensor of a file as another dtype; return its name."""
    state = load_file(path)
    key = next(key for key in state if key.endswith(name))
    save_file(state | {key: state[key].to(dtype)}, path, metadata={"format": "pt"})
    return key


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.uint8])
@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("unet/diffusion_pytorch_model.safetensors", "conv_in.bias"),
        ("vae/diffusion_pytorch_model.safetensors", "encoder.conv_in.weight"),
        ("text_encoder/model.safetensors", "final_layer_norm.bias"),
    ],
)
def test_weights_must_be_floating_point(file, name, dtype, tmp_path):
    folder = build_folder(tmp_path)
    key = changed(folder / file, name, dtype)
    expected = rf"{Path(file).parent}.*the tensor {key} holds {str(dtype)[6:]}; weights must be floating point"
    with pytest.raises(CorruptFileError, match=expected):
        TADPBackbone.from_pretrained(folder)


def test_a_captioners_weights_must_be_floating_point(tmp_path):
    folder = build_blip(tmp_path)
    key = changed(folder / "model.safetensors", "patch_embedding.weight", torch.int32)
    with pytest.raises(CorruptFileError, match=f"the tensor {key} holds int32"):
        Captioner.from_pretrained(folder)


def test_positions_counters_masks_and_what_a_module_counts_may_be_whole_numbers():
    whole = torch.ones(2, dtype=torch.long)
    names = ["embeddings.position_ids", "bn.num_batches_tracked", "attn.relative_position_index", "h.0.attn.bias"]
    check_weights(dict.fromkeys(names, whole), Path("model"))
    module = torch.nn.BatchNorm2d(2)
    module.register_buffer("order", whole)
    check_floats([("order", whole), ("num_batches_tracked", whole)], Path("model"), module)
    for name, owner in (("order", None), ("running_mean", module), ("weight", module)):
        with pytest.raises(CorruptFileError, match=f"model: the tensor {name} holds int64"):
            check_floats([(name, whole)], Path("model"), owner)


@pytest.mark.parametrize(
    ("names", "error"),
    [
        ([f"{LAYER}.lora_A.weight"], r"has .*lora_A\.weight, but not .*to_q\.lora_B\.weight"),
        (
            [f"{LAYER}.lora_{part}" for part in ("A.weight", "B.weight", "B.weight_old")],
            "has .*weight_old, which is not a",
        ),
    ],
)
def test_a_lora_has_both_factors_of_each_layer_and_nothing_else(names, error, tmp_path):
    folder = build_folder(tmp_path / "model")
    save_file({name: torch.ones(8, 8) for name in names}, tmp_path / LORA_NAME)
    with pytest.raises(ModelError, match=rf"{LORA_NAME} {error}"):
        TADPBackbone.from_pretrained(folder, lora=tmp_path)


def with_layers(folder: Path, layers: int) -> Path:
    path = folder / "text_encoder" / "config.json"
    config = json.loads(path.read_text())
    assert config["num_hidden_layers"] == 2
    path.write_text(json.dumps(config | {"num_hidden_layers": layers}))
    return folder


def test_a_text_encoder_skips_layers_that_its_config_does_not_name_with_one_warning(tmp_path):
    """As in diffusers, where people skip layers of CLIP on purpose."""
    whole = TADPBackbone.from_pretrained(build_folder(tmp_path))
    expected = r"config\.json describes fewer layers than .*skips the last ones: \d+ weights are not read, such as \S+"
    with pytest.warns(UserWarning, match=expected) as caught:
        skipping = TADPBackbone.from_pretrained(with_layers(tmp_path, 1))
    assert len(caught) == 1
    encoder = CLIPTextModel.from_pretrained(tmp_path / "text_encoder")
    tokens = skipping.text_encoder.tokenizer(["a dog"], padding="max_length", return_tensors="pt")
    with torch.no_grad():
        reference = encoder(tokens.input_ids).last_hidden_state
    embeddings = skipping.encode_text(["a dog"]).embeddings
    assert torch.allclose(embeddings, reference, atol=1e-6)
    assert not torch.allclose(embeddings, whole.encode_text(["a dog"]).embeddings, atol=1e-3)
    skipping.save_pretrained(tmp_path / "saved")
    again = TADPBackbone.from_pretrained(tmp_path / "saved")  # without a warning
    assert torch.equal(again.encode_text(["a dog"]).embeddings, embeddings)


@pytest.mark.parametrize(("layers", "error"), [(0, "num_hidden_layers must be above 0"), (3, r"lacks \d+ weights")])
def test_a_text_encoder_without_layers_or_without_weights_is_refused(layers, error, tmp_path):
    build_folder(tmp_path)
    with pytest.raises(ModelError, match=error):
        TADPBackbone.from_pretrained(with_layers(tmp_path, layers))


def test_a_captioner_with_fewer_layers_than_its_weights_is_refused(tmp_path):
    build_blip(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["text_config"]["num_hidden_layers"] = 1
    path.write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"do not fit its config\.json, which .* fewer layers"):
        Captioner.from_pretrained(tmp_path)


def test_a_message_about_weights_that_do_not_fit_is_short(tmp_path):
    folder = build_folder(tmp_path)
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"block_out_channels": [8, 16, 16, 32]}))
    with pytest.raises(ModelError, match=r"(?s)do not fit its config\.json.*and \d+ more") as error:
        TADPBackbone.from_pretrained(folder)
    assert len(str(error.value).replace(str(folder), "")) < 600
