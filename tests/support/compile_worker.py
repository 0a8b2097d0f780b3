"""Compare compiled backbones with eager ones, for test_backbone_text.

torch.compile cannot trace the type checker of the tests, so this runs in a process without it.

    python compile_worker.py captions           # prints for each batch: whether the outputs are equal, compilations
    python compile_worker.py noise              # several timesteps with noise
    python compile_worker.py levels             # only some of the levels
    python compile_worker.py whole ["SD 3" …]   # one graph per call, for each family; default: Stable Diffusion 1.x
"""

import sys
import tempfile
from pathlib import Path

import torch
from builders import build_backbone, build_unet, embeddings, images, latents
from builders_families import build_family
from torch._dynamo.testing import CompileCounter

from tadp import Conditioning, TADPBackbone

NONE = ((), ())  # levels whose attention is attached, and levels where it is recorded
WAYS = {"SDXL": (((1,), (2,)), NONE), "SD 3": (((1, 2), ()), ((), (1, 2)), NONE), "FLUX": (((1,), (2,)), NONE)}
# Tracing time grows with the number of layers.
TWO_LEVELS = {"channels": (8, 16)}
SMALL = {"SDXL": {"layers_per_block": 1, "transformer_layers_per_block": [1, 1, 1]}}


def same(actual, expected):
    maps = all(torch.equal(a, b) for a, b in zip(actual.maps, expected.maps, strict=True))
    if actual.attention is None or expected.attention is None:
        return maps and actual.attention is expected.attention
    levels = expected.attention.levels
    return (
        maps
        and actual.attention.levels == levels
        and all(torch.equal(actual.attention.at(k), expected.attention.at(k)) for k in levels)
    )


@torch.no_grad()
def captions():
    backbone = build_backbone(unet=build_unet(**TWO_LEVELS), attach_attention=(0,))
    pixels = images(2, 64, 64)
    counter = CompileCounter()
    compiled = torch.compile(backbone, backend=counter)
    for text in (["a dog", "a red cat"], ["on grass", "a blue raincoat"], ["", "a"]):
        with backbone.conditioning(text):
            print(same(compiled(pixels), backbone(pixels)), counter.frame_count)


def whole(backbone: TADPBackbone, *ways: tuple[tuple[int, ...], tuple[int, ...]], sizes: int = 1):
    """Compile a whole call in the first way, for `sizes` sizes of image and batch.

    Then compile `extract`, which starts from latents, with gradients, in each of the other ways.
    """
    text = backbone.encode_text(["a dog", "a red cat"])
    plain = Conditioning(text.embeddings, pooled=text.pooled)
    calls = [(images(2, 64, 96), text), (images(1, 100, 70), plain.take([0]))][:sizes]
    inputs = latents(2, 8, 8) if backbone.layout.latent_channels == 4 else torch.randn(2, 16, 8, 8), plain
    for number, (attach, record) in enumerate(ways):
        torch._dynamo.reset()
        backbone = backbone.with_options(attach_attention=attach, record_attention=record)
        if number == 0:
            compiled = torch.compile(backbone, backend="eager", fullgraph=True)
            with torch.no_grad():
                print(*(same(compiled(*call), backbone(*call)) for call in calls))
        else:
            compiled = torch.compile(backbone.extract, backend="eager", fullgraph=True)
            print(same(compiled(*inputs), backbone.extract(*inputs)))


def noise():
    """Compile `extract`, which starts from latents, with several timesteps and noise."""
    backbone = build_backbone(
        unet=build_unet(**TWO_LEVELS),
        attach_attention=(0,),
        scheduler={"beta_schedule": "linear"},
        timestep=(1, 261),
        noise_samples=1,
        combine_timesteps="concatenate",
    )
    inputs = latents(2, 8, 8), Conditioning(embeddings(2, 77))
    compiled = torch.compile(backbone.extract, backend="eager", fullgraph=True)
    print(same(compiled(*inputs), backbone.extract(*inputs)))


def some_levels():
    """Compile `extract` for some of the levels, the finest of which records attention after its map."""
    backbone = build_backbone(unet=build_unet(channels=(8, 16, 16)), attach_attention=(1,))
    inputs = latents(2, 8, 8), Conditioning(embeddings(2, 77))
    for levels in ((1,), (2,)):
        compiled = torch.compile(backbone.extract, backend="eager", fullgraph=True)
        print(same(compiled(*inputs, levels=levels), backbone.extract(*inputs, levels=levels)))


if sys.argv[1] == "captions":
    captions()
elif sys.argv[1] == "levels":
    some_levels()
elif sys.argv[1] == "noise":
    noise()
else:
    with tempfile.TemporaryDirectory() as folder:
        for family in sys.argv[2:]:
            backbone = TADPBackbone.from_pretrained(
                build_family(family, Path(folder) / family, **SMALL.get(family, {}))
            )
            whole(backbone, *WAYS[family])
        if not sys.argv[2:]:
            whole(build_backbone(unet=build_unet(**TWO_LEVELS), attach_attention=(0,)), ((0,), (0,)), NONE, sizes=2)
