"""Numbers that are not finite, several sets of weights in one folder, and parts that other code has changed."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from .cases import Kind, family
from .fixtures import copy, described, features, fixture, predicted, reference

NUMBERS = {"NaN": float("nan"), "infinite": float("inf"), "minus infinity": -float("inf")}


def toy_features(folder: Path) -> Any:
    from tadp import CaptionModifier, TADPBackbone

    return CaptionModifier.from_pretrained(folder).install(TADPBackbone.from_pretrained(fixture("sd")))


def lora_features(folder: Path) -> Any:
    return features(fixture("sd"), lora=folder)


def half_features(folder: Path) -> Any:
    import torch

    return features(folder, dtype=torch.float16)


# The fixture, the file with weights, and what reads it.
WEIGHTS: dict[str, tuple[str, str, Callable[[Path], Any]]] = {
    "U-Net": ("sd", "unet/diffusion_pytorch_model.safetensors", features),
    "VAE": ("sd", "vae/diffusion_pytorch_model.safetensors", features),
    "text encoder": ("sd", "text_encoder/model.safetensors", features),
    "text adapter": ("saved", "text_adapter.safetensors", features),
    "captioner": ("blip", "model.safetensors", described),
    "LoRA": ("lora", "pytorch_lora_weights.safetensors", lora_features),
    "learned token": ("modifier", "learned_embeds.safetensors", toy_features),
    "segmentation head": ("segmentation", "model.safetensors", predicted),
    "depth head": ("depth", "model.safetensors", partial(predicted, task="depth")),
    "detection head": ("detection", "model.safetensors", partial(predicted, task="detection")),
}


def read_with(number: float, name: str, folder: Path, rng: Random, *, load: Callable[[Path], Any] | None = None) -> Any:
    """Read weights of which one value is this number."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    source, file, usual = WEIGHTS[name]
    model = copy(source, folder)
    path = model / file
    with safe_open(path, "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(path)
    key = rng.choice(sorted(key for key in tensors if not key.startswith(("decoder", "post_quant"))))
    tensors[key].view(-1)[rng.randrange(tensors[key].numel())] = number
    save_file(tensors, path, metadata=metadata)
    return (load or usual)(model)


@family("weights that are not finite")
def not_finite() -> Iterator[Kind]:
    for name in WEIGHTS:
        for sort, number in NUMBERS.items():
            yield Kind(f"{name}, {sort}", partial(read_with, number, name), names="finite|infinity")
    for name in ("U-Net", "VAE", "text encoder"):
        run = partial(read_with, 1e6, name, load=half_features)
        yield Kind(f"{name}, too large for float16", run, names="float16 holds no number above 65,504")
    for key in ("unet.lora_alpha", "unet.alpha_pattern"):
        yield Kind(f"{key} of a LoRA, infinite", partial(read_alpha, key), names=("pytorch_lora_weights", key))
    for scale in NUMBERS:
        yield Kind(f"lora_scale, {scale}", partial(read_scaled, NUMBERS[scale]), names="lora_scale")


def read_alpha(key: str, folder: Path, rng: Random) -> Any:
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    path = copy("lora", folder) / "pytorch_lora_weights.safetensors"
    with safe_open(path, "pt") as opened:
        settings = json.loads((opened.metadata() or {})["lora_adapter_metadata"])
    settings[key] = float("inf") if key.endswith("alpha") else {"to_q": float("inf")}
    save_file(load_file(path), path, metadata={"lora_adapter_metadata": json.dumps(settings)})
    return lora_features(path.parent)


def read_scaled(scale: float, folder: Path, rng: Random) -> Any:
    return features(fixture("sd"), lora=fixture("lora"), lora_scale=scale)


PARTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}


def sharded(folder: Path, part: str, *, value: float = 1.0, name: str = "shard.safetensors") -> Path:
    """A copy of `sd` in which a part has shards as well, with other values than its single file."""
    from safetensors.torch import load_file, save_file

    model = copy("sd", folder)
    state = load_file(model / part / f"{PARTS[part]}.safetensors")
    save_file({key: tensor * value for key, tensor in state.items()}, model / part / "shard.safetensors")
    index = model / part / f"{PARTS[part]}.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(state, name)}), encoding="utf-8")
    return model


def read_two_sets(part: str, wrong: str, folder: Path, rng: Random) -> Any:
    """Read a part with two sets of weights, of which the library of that part would not read the wrong one."""
    model = sharded(folder, part)
    name = "shard" if wrong == "shards" else PARTS[part]
    path = model / part / f"{name}.safetensors"
    from safetensors.torch import load_file, save_file

    save_file({key: tensor * 3 for key, tensor in load_file(path).items()}, path, metadata={"format": "pt"})
    return features(model)


def read_shard_at(name: str, part: str, folder: Path, rng: Random) -> Any:
    model = sharded(folder, part, name=name)
    (model / part / f"{PARTS[part]}.safetensors").unlink()
    return features(model)


def read_linked_shard(part: str, folder: Path, rng: Random) -> Any:
    model = sharded(folder, part)
    (model / part / f"{PARTS[part]}.safetensors").unlink()
    (model / part / "shard.safetensors").rename(folder / "elsewhere.safetensors")
    (model / part / "shard.safetensors").symlink_to(folder / "elsewhere.safetensors")
    return features(model)


def read_option(file: str, source: str, option: str, value: Any, folder: Path, rng: Random) -> Any:
    """Read a model whose config has a further option of the backbone, which names a file."""
    path = copy(source, folder) / file
    config = json.loads(path.read_text(encoding="utf-8"))
    config.get("base", config)["options"][option] = value
    path.write_text(json.dumps(config), encoding="utf-8")
    return features(path.parent) if source == "saved" else predicted(path.parent, source)


def read_base(name: str, folder: Path, rng: Random) -> Any:
    path = copy("segmentation", folder) / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base"]["name"] = name
    path.write_text(json.dumps(config), encoding="utf-8")
    return predicted(path.parent)


@family("files of weights")
def files_of_weights() -> Iterator[Kind]:
    wrong = {"unet": "file", "vae": "file", "text_encoder": "shards"}
    for part in PARTS:
        yield Kind(f"{part}, two sets", partial(read_two_sets, part, wrong[part]),
                   right=lambda value: value == reference("features"))  # fmt: skip
        for name in ("/etc/passwd", "../vae/diffusion_pytorch_model.safetensors", "a/../../b.safetensors", ".."):
            yield Kind(f"{part}, a shard {name}", partial(read_shard_at, name, part), names=("index.json", "outside"))
        yield Kind(f"{part}, a shard linked elsewhere", partial(read_linked_shard, part), names="outside")
    options = {"unet": "/elsewhere", "vae": "..", "lora": "lora", "cache_dir": "/tmp", "token": "x"}
    for option, value in options.items():
        for file, source in (("tadp_config.json", "saved"), ("config.json", "segmentation")):
            run = partial(read_option, file, source, option, value)
            yield Kind(f"{option} as an option in {source}", run, names=(file, option))
    for name in ("..", "../sd", "a/../../sd"):
        yield Kind(f"base model {name}", partial(read_base, name), names=("config.json", "base"))


def changes() -> dict[str, Callable[[Any], object]]:
    """What other code may do to a backbone."""
    return {
        "fused projections": lambda backbone: backbone.unet.fuse_qkv_projections(),
        "unfused projections": lambda backbone: (
            backbone.unet.fuse_qkv_projections(), backbone.unet.unfuse_qkv_projections()
        ),
        "sliced attention": lambda backbone: backbone.unet.set_attention_slice(1),
        "FreeU": lambda backbone: backbone.unet.enable_freeu(0.9, 0.2, 1.2, 1.4),
        "block in float16": lambda backbone: backbone.unet.mid_block.half(),
        "VAE block in float16": lambda backbone: backbone.vae.encoder.mid_block.half(),
    }  # fmt: skip


CHANGES = (
    "fused projections", "unfused projections", "sliced attention", "FreeU", "block in float16", "VAE block in float16",
)  # fmt: skip


def changed(name: str) -> tuple[Any, Any]:
    """A backbone that records attention, and the same one after a change."""
    from tadp import TADPBackbone

    before, after = (TADPBackbone.from_pretrained(fixture("sd"), record_attention=(0,)) for _ in range(2))
    changes()[name](after)
    return before, after


def agree(first: Any, second: Any) -> bool:
    import torch

    from .fixtures import picture

    with torch.inference_mode():
        one, other = (backbone(picture((64, 64)), "a red dog on grass") for backbone in (second, first))
    maps = [*zip(one.maps, other.maps, strict=True), (one.attention.at(0), other.attention.at(0))]
    return all(torch.allclose(left, right, atol=1e-4) for left, right in maps)


def call(name: str, folder: Path, rng: Random) -> bool:
    return agree(*changed(name))


def save(name: str, folder: Path, rng: Random) -> bool:
    from tadp import TADPBackbone

    before, after = changed(name)
    after.save_pretrained(folder / "model")
    return agree(before, TADPBackbone.from_pretrained(folder / "model"))


@family("changed parts")
def changed_parts() -> Iterator[Kind]:
    for name in CHANGES:
        yield Kind(f"call, {name}", partial(call, name), right=bool, seconds=30, megabytes=1000)
        if "float16" not in name:  # such a folder loads in float32, with rounded weights
            yield Kind(f"save, {name}", partial(save, name), right=bool, seconds=30, megabytes=1000)
