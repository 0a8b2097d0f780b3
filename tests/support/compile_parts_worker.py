"""Run backbones whose repeated parts are compiled, for test_compilation, in a process without the type checker.

    python compile_parts_worker.py sizes        # new graphs and largest difference per size of image, batch and levels
python compile_parts_worker.py training     # largest difference of gradients, with checkpointing
python compile_parts_worker.py families     # largest difference per family
python compile_parts_worker.py inductor     # largest difference with PyTorch's default backend
lora() prints the largest difference with a LoRA that is added before and after compiling.
"""

import copy
import pickle
import sys
import tempfile
from pathlib import Path

import torch
from builders import build_backbone, build_unet, images, relative_error
from builders_families import build_family
from contracts import is_at_least
from peft import LoraConfig
from torch._dynamo.utils import counters

from tadp import Conditioning, TADPBackbone
from tadp.diffusion.compilation import compile_parts

SMALL = {"channels": (8, 16), "layers_per_block": 1}


def build(**options) -> TADPBackbone:
    return build_backbone(unet=build_unet(**SMALL), attach_attention=(0,), **options)


def graphs() -> int:
    return counters["stats"]["unique_graphs"]


def difference(actual, expected) -> float:
    pairs = [*zip(actual.maps, expected.maps, strict=True)]
    if expected.attention is not None:
        pairs += [(actual.attention.at(level), expected.attention.at(level)) for level in expected.attention.levels]
    return max(relative_error(a, b) for a, b in pairs)


def compare(name: str, backbone: TADPBackbone, plain: TADPBackbone, *inputs, **options) -> None:
    before = graphs()
    error = difference(backbone(*inputs, **options), plain(*inputs, **options))
    print(name, graphs() - before, error)


@torch.no_grad()
def sizes():
    backbone, plain = build(), build()
    backbone.compile(backend="eager")
    text = backbone.encode_text("a dog")
    for size in ((64, 64), (64, 96), (96, 64), (64, 128), (128, 96)):
        compare("size", backbone, plain, images(1, *size), text)
    for batch in (2, 3):
        compare("batch", backbone, plain, images(batch, 64, 96), text)
    pixels = images(1, 64, 96)
    for levels in ((1,), (0, 1)):
        twins = [model.with_options(record_attention=(0,), attach_attention=()) for model in (backbone, plain)]
        compare("levels", *twins, pixels, text, levels=levels)
    for twin in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
        compare("copy", twin, plain, pixels, text)
    if is_at_least("torch", "2.9"):  # 2.8 finds an error where none is, if the parts have run
        whole = torch.compile(backbone, backend="eager", fullgraph=True)
        print("whole", difference(whole(pixels, text), plain(pixels, text)))


def gradients(backbone: TADPBackbone, text: Conditioning, size: int) -> dict[str, torch.Tensor]:
    backbone.zero_grad()
    features = backbone(images(2, size, size), text)
    sum((level**2).mean() for level in features.maps).backward()
    return {name: weight.grad for name, weight in backbone.unet.named_parameters() if weight.grad is not None}


def training():
    """A step with gradient checkpointing, which runs parts again; the attention is recorded in the first run."""
    backbone, plain = build().train(), build().train()
    text = backbone.encode_text(["a dog", "a red cat"])
    backbone.compile(backend="aot_eager")
    for model in (backbone, plain):
        model.enable_gradient_checkpointing()
    actual, expected = (gradients(model, text, 64) for model in (backbone, plain))
    print(actual.keys() == expected.keys(), max(relative_error(actual[name], expected[name]) for name in expected))


@torch.no_grad()
def families(*names: str):
    for family in names:
        torch._dynamo.reset()
        with tempfile.TemporaryDirectory() as folder:
            path = build_family(family, Path(folder), **({"layers_per_block": 1} if family == "SDXL" else {}))
            backbone, plain = (TADPBackbone.from_pretrained(path, record_attention=(1,)) for _ in range(2))
        text = backbone.encode_text("a dog")
        backbone.compile(backend="eager", fullgraph=True)
        before = graphs()
        print(difference(backbone(images(1, 64, 96), text), plain(images(1, 64, 96), text)), end=" ")
        first = graphs() - before
        assert difference(backbone(images(1, 96, 128), text), plain(images(1, 96, 128), text)) == 0
        print(graphs() - before - first <= first)


@torch.no_grad()
def lora():
    settings = LoraConfig(r=2, target_modules=["to_q", "to_v", "to_out.0"], init_lora_weights=False)
    text, pixels = build().encode_text("a dog"), images(1, 64, 64)
    for compile_first in (True, False):
        backbone, plain = build(), build()
        before = plain(pixels, text)
        if compile_first:
            backbone.compile(backend="eager")
            backbone(pixels, text)
        for model in (backbone, plain):
            torch.manual_seed(0)
            model.unet.add_adapter(settings)
        if not compile_first:
            backbone.compile(backend="eager")
        print(difference(backbone(pixels, text), plain(pixels, text)), difference(before, plain(pixels, text)))


def inductor():
    """Compile a resnet and a transformer block; the C++ compiler takes seconds for each."""
    backbone, plain = build(), build()
    text, pixels = backbone.encode_text(["a dog", "a red cat"]), images(2, 64, 64)
    unet, settings = backbone.unet, {"backend": "inductor", "mode": None, "fullgraph": True, "dynamic": None}
    parts = {
        "resnet": unet.up_blocks[-1].resnets[-1],
        "block": unet.up_blocks[-1].attentions[-1].transformer_blocks[0],
    }
    compile_parts(parts, options=None, **settings)
    with torch.no_grad():
        print("float32", difference(backbone(pixels, text), plain(pixels, text)))
    compile_parts({"resnet": parts["resnet"]}, options={"freezing": True}, **settings)
    for _ in range(2):
        with torch.no_grad():
            print("freezing", difference(backbone(pixels, text), plain(pixels, text)))
            for model in (backbone, plain):
                model.unet.up_blocks[-1].resnets[-1].conv1.weight.mul_(2)  # code with the old weights would be wrong
    trained, plain = (
        build(),
        build(),
    )  # only the resnet: a block's gradient takes long to compile
    compile_parts({"resnet": trained.unet.up_blocks[-1].resnets[-1]}, options=None, **settings)
    actual, expected = (gradients(model, text, 64) for model in (trained, plain))
    print("gradient", max(relative_error(actual[name], expected[name]) for name in expected))


if __name__ == "__main__":
    {"sizes": sizes, "training": training, "families": families, "inductor": inductor}[sys.argv[1]](*sys.argv[2:])
