"""Which weight files are read: two sets, variants of some parts, files outside the folder, git-LFS pointers."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import build_folder
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from tadp import Captioner, CaptionModifier, CaptionTable, TADPBackbone
from tadp.convert import read_token
from tadp.errors import CaptionError, CorruptFileError, MissingFileError, ModelError, TADPError, UnknownModelError
from tadp.files.hub import weight_files

BASE = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
LIBRARY: dict[str, Any] = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def add_shard(folder: Path, base: str, *, name: str = "shard.safetensors", shift: float = 1.0) -> Path:
    """Add an index with one shard, whose weights differ from those of the single file."""
    state = {key: tensor + shift for key, tensor in load_file(folder / f"{base}.safetensors").items()}
    save_file(state, folder / name, metadata={"format": "pt"})
    index = folder / f"{base}.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(state, name)}))
    return index


@pytest.mark.parametrize("part", BASE)
def test_of_two_sets_of_weights_the_one_that_the_library_takes(part, tmp_path):
    folder = build_folder(tmp_path)
    add_shard(folder / part, BASE[part])
    expected = LIBRARY[part].from_pretrained(folder / part, use_safetensors=True)
    backbone = TADPBackbone.from_pretrained(folder)
    actual = {"unet": backbone.unet, "vae": backbone.vae, "text_encoder": backbone.text_encoder.model}[part]
    names = actual.state_dict().keys() & expected.state_dict().keys()
    assert len(names) > 10
    assert all(torch.equal(actual.state_dict()[name], expected.state_dict()[name]) for name in names)


@pytest.mark.parametrize("outside", ["/etc/weights.safetensors", "../vae/diffusion_pytorch_model.safetensors", "link"])
def test_a_shard_outside_the_folder_is_refused(outside, tmp_path):
    folder = build_folder(tmp_path / "model")
    index = add_shard(folder / "unet", BASE["unet"])
    if outside == "link":
        shutil.move(folder / "unet" / "shard.safetensors", tmp_path / "elsewhere.safetensors")
        (folder / "unet" / "shard.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    else:
        index.write_text(index.read_text().replace("shard.safetensors", outside))
    with pytest.raises(CorruptFileError, match=r"index.json lists the file .*, which is outside its folder"):
        TADPBackbone.from_pretrained(folder)


def test_shards_in_the_cache_of_the_hub_are_links_and_load(tmp_path):
    folder = build_folder(tmp_path / "models--a--b" / "snapshots" / "0a1b")
    index = add_shard(folder / "unet", BASE["unet"])
    blobs = tmp_path / "models--a--b" / "blobs"
    blobs.mkdir()
    for number, path in enumerate((index, index.with_name("shard.safetensors"))):
        shutil.move(path, blobs / str(number))
        path.symlink_to(Path("../../../blobs") / str(number))
    assert [path.name for path in weight_files(folder / "unet", BASE["unet"])] == ["shard.safetensors"]


@pytest.mark.parametrize("weight_map", [None, {}, [], "shard", {"conv_in.weight": 1}])
def test_a_weight_map_that_maps_nothing_is_refused(weight_map, tmp_path):
    folder = build_folder(tmp_path)
    add_shard(folder / "unet", BASE["unet"]).write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CorruptFileError, match=r"has no weight_map"):
        TADPBackbone.from_pretrained(folder)


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
@pytest.mark.parametrize("value", [None, True, "x", -1, [], [[1]]])
def test_metadata_of_an_index_that_are_no_object_are_refused(part, value, tmp_path):
    folder = build_folder(tmp_path)
    index = add_shard(folder / part, BASE[part])
    (folder / part / f"{BASE[part]}.safetensors").unlink(missing_ok=True)
    index.write_text(json.dumps(json.loads(index.read_text()) | {"metadata": value}))
    with pytest.raises(CorruptFileError, match=rf"{index.name}: metadata must be an object; got "):
        TADPBackbone.from_pretrained(folder)


def test_a_shard_that_is_missing_is_named_with_its_index(tmp_path):
    folder = build_folder(tmp_path)
    index = add_shard(folder / "unet", BASE["unet"])
    index.with_name("shard.safetensors").unlink()
    with pytest.raises(MissingFileError, match=rf"no shard\.safetensors in .*unet, but {index.name} lists it"):
        TADPBackbone.from_pretrained(folder)


@pytest.mark.parametrize("name", ["", "part", "a\0b", "a" * 300])
def test_a_weight_map_with_a_name_that_cannot_be_a_file(name, tmp_path):
    folder = build_folder(tmp_path)
    (folder / "unet" / "part").mkdir()
    add_shard(folder / "unet", BASE["unet"]).write_text(json.dumps({"weight_map": {"conv_in.weight": name}}))
    with pytest.raises(CorruptFileError, match=r"index.json lists '.*', which cannot be a file"):
        TADPBackbone.from_pretrained(folder)


def test_two_denoisers_in_one_folder_are_refused(tmp_path):
    folder = build_folder(tmp_path)
    shutil.copytree(folder / "unet", folder / "transformer")
    with pytest.raises(ModelError, match=r"two denoisers, unet/ and transformer/; a model has one"):
        TADPBackbone.from_pretrained(folder)
    with pytest.raises(ModelError, match=r"two sets of weights, in unet/ and in transformer/"):
        TADPBackbone.from_pretrained("tadp-tiny", unet=folder)


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_a_replacing_part_with_weights_in_two_places_is_refused(part, tmp_path):
    folder = build_folder(tmp_path / "model")
    shutil.copytree(folder / part, tmp_path / "part")
    shutil.copytree(folder / part, tmp_path / "part" / part)
    with pytest.raises(ModelError, match=rf"two sets of weights, in {part}/ and directly"):
        TADPBackbone.from_pretrained(folder, **{part: tmp_path / "part"})
    TADPBackbone.from_pretrained(folder, **{part: tmp_path / "part" / part})


@pytest.mark.parametrize("part", BASE)
def test_a_variant_that_one_part_lacks(part, tmp_path):
    plain, folder = build_folder(tmp_path / "plain", seed=1), build_folder(tmp_path / "fp16", seed=1, variant="fp16")
    shutil.rmtree(folder / part)
    shutil.copytree(plain / part, folder / part)
    with pytest.warns(UserWarning, match=rf"{part} has no weights of variant 'fp16'; those without a variant are"):
        backbone = TADPBackbone.from_pretrained(folder, variant="fp16")
    weights = TADPBackbone.from_pretrained(plain).state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in backbone.state_dict().items())


def test_a_variant_that_no_part_has_is_refused(tmp_path):
    with pytest.raises(MissingFileError, match=r"Is there a variant 'fp16'\?"):
        TADPBackbone.from_pretrained(build_folder(tmp_path), variant="fp16")


def test_weights_that_transformers_would_read_instead_are_refused(tmp_path):
    folder = build_folder(tmp_path)
    config = folder / "text_encoder" / "config.json"
    before = config.read_text()
    config.write_text(json.dumps(json.loads(before) | {"transformers_weights": "other.safetensors"}))
    with pytest.raises(ModelError, match=r"config.json: transformers_weights names other files, 'other.safetensors'"):
        TADPBackbone.from_pretrained(folder)
    config.write_text(before)
    (folder / "text_encoder" / "adapter_config.json").write_text('{"base_model_name_or_path": "/elsewhere"}')
    with pytest.raises(ModelError, match=r"adapter_config.json makes the model an adapter of another one"):
        TADPBackbone.from_pretrained(folder)


@pytest.mark.parametrize("options", [{"unet": "/elsewhere"}, {"lora": "a.safetensors"}, {"cache_dir": ".."}])
def test_saved_options_name_no_files(options, tmp_path):
    folder = build_folder(tmp_path)
    (folder / "tadp_config.json").write_text(json.dumps({"options": options}))
    with pytest.raises(ModelError, match=r"tadp_config.json has the backbone option"):
        TADPBackbone.from_pretrained(folder)


@pytest.mark.parametrize(
    "file",
    ["unet/diffusion_pytorch_model.safetensors", "vae/config.json", "text_encoder/model.safetensors",
     "tokenizer/tokenizer.json", "scheduler/scheduler_config.json", "tadp_config.json"],
)  # fmt: skip
def test_git_lfs_pointers_in_a_model(file, tmp_path):
    folder = build_folder(tmp_path)
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_text(POINTER)
    with pytest.raises(
        CorruptFileError, match=rf"{file} is a git-LFS pointer, not the file itself. Run 'git lfs pull'"
    ):
        TADPBackbone.from_pretrained(folder)


@pytest.mark.parametrize("suffix", ["json", "jsonl", "parquet", "db"])
def test_git_lfs_pointers_as_captions(suffix, tmp_path):
    path = tmp_path / f"captions.{suffix}"
    path.write_text(POINTER)
    with pytest.raises(CaptionError, match=rf"captions.{suffix} is a git-LFS pointer"):
        CaptionTable.open(path)
    if suffix == "db":
        with pytest.raises(CaptionError, match="is a git-LFS pointer"):
            CaptionTable.create(path)


@pytest.mark.parametrize("name", ["toy.pt", "toy.bin", "toy.safetensors"])
def test_git_lfs_pointers_as_other_weights(name, tmp_path):
    (tmp_path / name).write_text(POINTER)
    with pytest.raises(CorruptFileError, match=rf"{name} is a git-LFS pointer"):
        read_token(tmp_path / name)


def test_git_lfs_pointers_as_lora_and_image(tmp_path):
    from tadp.images import to_pil

    for name in ("lora.safetensors", "photo.png"):
        (tmp_path / name).write_text(POINTER)
    readers = {
        "lora.safetensors": lambda: TADPBackbone.from_pretrained("tadp-tiny", lora=tmp_path / "lora.safetensors"),
        "photo.png": lambda: to_pil(tmp_path / "photo.png"),
    }
    for name, read in readers.items():
        with pytest.raises(TADPError, match=rf"{name} is a git-LFS pointer"):
            read()


@pytest.mark.parametrize("name", ["unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"])
def test_a_pipe_in_place_of_weights_is_not_read(name, tmp_path):
    folder = build_folder(tmp_path / "model")
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(CorruptFileError, match=rf"{name} is a pipe or a device, not a file"):
        TADPBackbone.from_pretrained(folder)


@pytest.mark.parametrize("sort", ["pipe", "deep", "list"])
def test_another_config_in_a_folder_above_does_not_matter(sort, tmp_path):
    """Weights with an id look for the config that names it in the folders above them."""
    folder = tmp_path / "model"
    TADPBackbone.from_pretrained(build_folder(tmp_path / "plain")).save_pretrained(folder)
    for path in (tmp_path / "config.json", folder / "modifier.json"):
        if sort == "pipe":
            os.mkfifo(path)
        else:
            path.write_text("[" * 100_000 if sort == "deep" else "[]")
    assert TADPBackbone.from_pretrained(folder).feature_info.channels


@pytest.mark.parametrize("name", ["a" * 5000, "~nobody-has-this-name/x"])
def test_a_name_that_no_path_can_have(name):
    for load in (TADPBackbone, Captioner, CaptionModifier):
        with pytest.raises(UnknownModelError, match=r"unknown model '.*': it cannot be a path"):
            load.from_pretrained(name, local_files_only=True)
    with pytest.raises(UnknownModelError, match=r"unknown model '.*': it cannot be a path"):
        TADPBackbone.from_pretrained("tadp-tiny", lora=f"{name}.safetensors")
