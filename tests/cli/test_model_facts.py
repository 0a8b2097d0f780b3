import json
import shutil

import pytest
from builders_families import build_pipeline

from tadp.assets import tiny_folder
from tadp.cli.info import _hollow_backbone
from tadp.cli.model_facts import facts_of, facts_of_files


@pytest.mark.parametrize("family", ["SD 2.x", "SDXL"])
def test_headers_of_weight_files_give_the_facts_of_the_networks_that_they_belong_to(tmp_path, family):
    build_pipeline(family).save_pretrained(tmp_path, variant="fp16")
    assert facts_of_files(tmp_path, "fp16") == facts_of(_hollow_backbone(tmp_path))


def test_headers_give_the_facts_of_tadp_tiny():
    facts = facts_of_files(tiny_folder(), None)
    assert facts == facts_of(_hollow_backbone(tiny_folder()))


def test_a_model_with_options_of_its_own_or_of_another_kind_or_damaged_is_left_to_its_networks(tmp_path):
    folder = shutil.copytree(tiny_folder(), tmp_path / "model")
    (folder / "tadp_config.json").write_text("{}")
    assert facts_of_files(folder, None) is None
    (folder / "tadp_config.json").unlink()
    assert facts_of_files(folder, None) is not None
    for part, key, value in (
        ("unet", "class_embed_type", "timestep"),
        ("unet", "up_block_types", ["UpBlock2D"] * 5),
        ("unet", "_class_name", "UNet2DModel"),
        ("vae", "latents_mean", [0.0]),
        ("vae", "block_out_channels", 4),
        ("text_encoder", "max_position_embeddings", "77"),
    ):
        path = folder / part / "config.json"
        config = path.read_text()
        path.write_text(json.dumps(json.loads(config) | {key: value}))
        assert facts_of_files(folder, None) is None, key
        path.write_text(config)
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"damaged")
    assert facts_of_files(folder, None) is None
