"""Weight files: safetensors, single-file checkpoints and learned tokens, damaged or written to do harm."""

import json
import re
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from .cases import Kind, family
from .damage import CONTENTS, PLACES, damage
from .fixtures import copy, described, features, fixture, predicted, reference


class Weights(NamedTuple):
    """A safetensors file of a fixture, what reads it, and the name of the intact result, see `reference`."""

    fixture: str
    file: str
    load: Callable[[Path], Any]
    result: str = ""


def with_lora(folder: Path) -> Any:
    return features(fixture("sd"), lora=folder)


def token_of(path: Path) -> Any:
    from tadp.convert import read_token

    token = read_token(path)
    return token.token, token.vectors.tolist()


def modifier_of(folder: Path) -> Any:
    from tadp import CaptionModifier, TADPBackbone

    backbone = TADPBackbone.from_pretrained(fixture("sd"))
    modifier = CaptionModifier.from_pretrained(folder)
    with modifier.install(backbone):
        return round(float(backbone.encode_text(modifier(["a dog"])).embeddings.std()), 4)


def resumed(folder: Path) -> Any:
    from builders_personalize import QUICK, learn

    photos = [str(path) for path in sorted(fixture("photos").iterdir())]
    modifier = learn(fixture("sd"), photos, **(QUICK | {"steps": 5}), output=folder)
    return modifier(["a dog"])


def single(path: Path) -> Any:
    from tadp.convert import from_single_file

    backbone = from_single_file(path, base_model=fixture("single/configs"))
    return sum(float(parameter.double().sum()) for parameter in backbone.parameters())


WEIGHTS = {
    "U-Net": Weights("sd", "unet/diffusion_pytorch_model.safetensors", features, "features"),
    "VAE": Weights("sd", "vae/diffusion_pytorch_model.safetensors", features, "features"),
    "text encoder": Weights("sd", "text_encoder/model.safetensors", features, "features"),
    "text adapter": Weights("saved", "text_adapter.safetensors", features),
    "head": Weights("segmentation", "model.safetensors", predicted, "segmentation"),
    "captioner": Weights("blip", "model.safetensors", described, "captions"),
    "LoRA": Weights("lora", "pytorch_lora_weights.safetensors", with_lora),
    "modifier": Weights("modifier", "learned_embeds.safetensors", modifier_of),
    "checkpoint of a run": Weights("personalized", "checkpoint.safetensors", resumed),
}


def parted(data: bytes) -> tuple[dict[str, Any], bytes]:
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def joined(header: Any, body: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def largest(header: dict[str, Any]) -> str:
    """The name of the largest tensor of floats."""
    floats = {name: entry["data_offsets"] for name, entry in header.items() if entry.get("dtype") == "F32"}
    return max(floats, key=lambda name: floats[name][1] - floats[name][0])


def edited(edit: Callable[[dict[str, Any], str], Any]) -> Callable[[bytes], bytes]:
    """Damage that edits the header; `edit` gets it with the name of its largest tensor."""

    def apply(data: bytes) -> bytes:
        header, body = parted(data)
        new = edit(header, largest(header))
        return joined(header if new is None else new, body)

    return apply


def filled(value: float) -> Callable[[bytes], bytes]:
    """Damage that sets the first number of the largest tensor of floats."""

    def apply(data: bytes) -> bytes:
        header, body = parted(data)
        place = header[largest(header)]["data_offsets"][0]
        return joined(header, body[:place] + struct.pack("<f", value) + body[place + 4 :])

    return apply


HEADERS: dict[str, Callable[[bytes], bytes]] = {
    "header of 2**63 bytes": lambda data: struct.pack("<Q", 2**63) + data[8:],
    "header longer than the file": lambda data: struct.pack("<Q", len(data) + 1) + data[8:],
    "header of no bytes": lambda data: struct.pack("<Q", 0) + data[8:],
    "header is a list": edited(lambda header, name: [header]),
    "header is cut": lambda data: joined(json.dumps(parted(data)[0]).encode()[:-5], parted(data)[1]),
    "header of 100,000 levels": lambda data: joined(b'{"a":' * 100_000, b""),
    "no tensors": lambda data: joined({}, b""),
    "offsets beyond the file": edited(lambda header, name: header[name].update(data_offsets=[0, 10**12])),
    "offsets are negative": edited(lambda header, name: header[name].update(data_offsets=[-8, 0])),
    "offsets swapped": edited(lambda header, name: header[name].update(
        data_offsets=header[name]["data_offsets"][::-1])),
    "offsets overlap": edited(lambda header, name: header.update(
        {key: dict(entry, data_offsets=[0, entry["data_offsets"][1] - entry["data_offsets"][0]])
         for key, entry in header.items() if key != "__metadata__"})),
    "shape is negative": edited(lambda header, name: header[name].update(shape=[-1, *header[name]["shape"]])),
    "shape overflows": edited(lambda header, name: header[name].update(shape=[2**62, 2**62])),
    "shape is text": edited(lambda header, name: header[name].update(shape="3")),
    "another shape": edited(lambda header, name: header[name].update(shape=[1, 1, 1, *header[name]["shape"]])),
    "unknown dtype": edited(lambda header, name: header[name].update(dtype="F31")),
    "integers in place of floats": edited(lambda header, name: header[name].update(dtype="I32")),
    "tensor renamed": edited(lambda header, name: header.update({f"{name}_old": header.pop(name)})),
    "metadata of numbers": edited(lambda header, name: header.update(__metadata__={"a": 1})),
    "NaN": filled(float("nan")),
    "infinite": filled(float("inf")),
    "one byte short": lambda data: data[:-1],
    "one byte more": lambda data: data + b"\0",
}  # fmt: skip
FILE_SORTS = ("empty", "cut in half", "zeros", "git-lfs pointer", "error page", "gzip", "pickle that runs code",
              "missing", "folder", "fifo", "broken link", "endless device")  # fmt: skip


def read_weights(weights: Weights, sort: str, folder: Path, rng: Random) -> tuple[Any, Any]:
    path = copy(weights.fixture, folder) / weights.file
    top = path.parents[weights.file.count("/")]
    expected = reference(weights.result) if weights.result else None if "run" in weights.file else "unknown"
    if sort in HEADERS:
        path.write_bytes(HEADERS[sort](path.read_bytes()))
    else:
        damage(path, sort, rng)
    return weights.load(top), expected


def as_before(pair: tuple[Any, Any]) -> bool:
    return pair[0] == pair[1]


HARMLESS = {
    ("checkpoint of a run", "missing"),  # the run starts again
    ("checkpoint of a run", "broken link"),
    ("modifier", "tensor renamed"),  # modifier.json has the token's name
    ("modifier", "offsets overlap"),  # the file has only one tensor
}


def weights_of(names: tuple[str, ...], sorts: tuple[str, ...]) -> Iterator[Kind]:
    for name in names:
        weights = WEIGHTS[name]
        named = (
            re.escape(Path(weights.file).name) + "|" + re.escape(f"{weights.fixture}/{weights.file}".rpartition("/")[0])
        )
        for sort in sorts:
            right = (lambda pair: bool(pair[0])) if (name, sort) in HARMLESS else None
            right = right or (as_before if weights.result else None)
            yield Kind(f"{name}, {sort}", partial(read_weights, weights, sort), named, right)


for first, second in (("U-Net", "VAE"), ("text encoder", "text adapter"), ("head", "captioner"), ("LoRA", "modifier")):
    family(f"safetensors: {first} and {second}")(partial(weights_of, (first, second), tuple(HEADERS)))
family("safetensors: checkpoint of a run")(partial(weights_of, ("checkpoint of a run",), (*HEADERS, *FILE_SORTS)))
family("safetensors: files of models")(
    partial(weights_of, ("U-Net", "VAE", "text encoder", "head", "captioner"), FILE_SORTS)
)
family("safetensors: files of parts")(partial(weights_of, ("text adapter", "LoRA", "modifier"), FILE_SORTS))


def read_single(suffix: str, sort: str, folder: Path, rng: Random) -> Any:
    path = copy(f"single/sd.{suffix}", folder)
    if sort in HEADERS:
        path.write_bytes(HEADERS[sort](path.read_bytes()))
    else:
        damage(path, sort, rng)
    return single(path)


@family("single-file checkpoints")
def single_files() -> Iterator[Kind]:
    for sort in (*CONTENTS, *PLACES):
        yield Kind(f"ckpt, {sort}", partial(read_single, "ckpt", sort), r"sd\.ckpt")
    for sort in (*HEADERS, *FILE_SORTS):
        yield Kind(f"safetensors, {sort}", partial(read_single, "safetensors", sort), r"sd\.safetensors")


def read_token_file(suffix: str, sort: str, folder: Path, rng: Random) -> Any:
    path = copy(f"learned.{suffix}", folder)
    if sort in HEADERS:
        path.write_bytes(HEADERS[sort](path.read_bytes()))
    else:
        damage(path, sort, rng)
    return token_of(path)


@family("learned tokens")
def learned_tokens() -> Iterator[Kind]:
    for sort in (*CONTENTS, *PLACES):
        yield Kind(f"bin, {sort}", partial(read_token_file, "bin", sort), r"learned\.bin")
    for sort in (*HEADERS, *FILE_SORTS):
        right = {
            "tensor renamed": lambda token: token[0] == "<toy>_old",
            "offsets overlap": lambda token: token == token_of(fixture("learned.safetensors")),  # there is only one
        }.get(sort)
        yield Kind(f"safetensors, {sort}", partial(read_token_file, "safetensors", sort), r"learned\.safet", right)
