"""The time of compiling a backbone, and of a pass and a training step with and without compilation."""

import os
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from benchmarking.counting import relative_error
from benchmarking.variants import SD15_UNET, TINY_UNET, TINY_VAE
from tadp import Conditioning, TADPBackbone
from tadp.files.inference import shallow_copy

SIZES: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {  # settings of the U-Net, and levels with attention
    "sd15": (SD15_UNET, (1, 2)),
    # the two finest levels of Stable Diffusion 1.5 with one layer per block, because compiling all takes minutes
    "two-levels": (
        SD15_UNET
        | {
            "block_out_channels": (320, 640),
            "layers_per_block": 1,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        },
        (0,),
    ),
    "tiny": (TINY_UNET, (1, 2)),
}
FREEZING = {"freezing": True}
PASSES: dict[str, tuple[bool, dict[str, Any] | None]] = {  # whether the whole call is compiled, and the options
    "torch.compile(backbone.extract)": (True, None),
    "backbone.compile()": (False, None),
    "torch.compile(backbone.extract), freezing": (True, FREEZING),
    "backbone.compile(options={'freezing': True})": (False, FREEZING),
}
STEPS = [name for name, (_, freezing) in PASSES.items() if not freezing]  # freezing is for passes without gradients


def worker(task: str, way: str, size: str, side: int, rounds: int, backend: str, cache: str, pipe: Any) -> None:
    """Measure in this process, which has one thread and compiles in it, so that its CPU time counts everything."""
    os.environ |= {"TORCHINDUCTOR_CACHE_DIR": cache, "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    torch.set_num_threads(1)
    torch.manual_seed(0)
    settings, levels = SIZES[size]
    networks = {"vae": AutoencoderKL(**TINY_VAE), "unet": UNet2DConditionModel(**settings)}
    backbone = TADPBackbone(**networks, attach_attention=levels, text_length=77).freeze().eval()
    text = Conditioning(torch.randn(1, 77, settings["cross_attention_dim"]))
    latents = torch.randn(1, 4, side // 8, side // 8)
    plain = shallow_copy(backbone)
    if task == "step":
        backbone.unfreeze()
    run: Callable[..., dict[str, torch.Tensor]] = step if task == "step" else extract
    compile_backbone(backbone, way, backend)
    run_compiled, run_plain = partial(run, backbone, latents, text), partial(run, plain, latents, text)
    expected = run_plain()
    before, first = seconds(run_plain), seconds(run_compiled)
    pairs = [(seconds(run_plain), seconds(run_compiled)) for _ in range(rounds)]
    speed = statistics.median(plain / compiled for plain, compiled in pairs) if pairs else 0.0
    pipe.send({"start": first - before, "speed": speed, "error": relative_error(run_compiled(), expected)})


def compile_backbone(backbone: TADPBackbone, way: str, backend: str) -> None:
    """Compile a backbone in a way of the tables."""
    is_whole, options = PASSES[way]
    if is_whole:
        if options:  # torch.compile reads this option only from its global setting
            torch._inductor.config.freezing = True
        backbone.extract = torch.compile(backbone.extract, backend=backend)  # pyright: ignore[reportAttributeAccessIssue]
    else:
        backbone.compile(backend=backend, options=options if backend == "inductor" else None)


def extract(backbone: TADPBackbone, latents: torch.Tensor, text: Conditioning) -> dict[str, torch.Tensor]:
    """Compute the maps, by level."""
    with torch.no_grad():
        return {f"level {level}": own for level, own in enumerate(backbone.extract(latents, text).maps)}


def step(backbone: TADPBackbone, latents: torch.Tensor, text: Conditioning) -> dict[str, torch.Tensor]:
    """Compute the maps and the gradients of all weights of the U-Net, and return some of these as rows, by name."""
    weights = {name: weight for name, weight in backbone.unet.named_parameters() if weight.requires_grad}
    torch.stack([level.square().mean() for level in backbone.extract(latents, text).maps]).sum().backward()
    gradients = {name: weight.grad for name, weight in weights.items() if weight.grad is not None}
    for weight in weights.values():
        weight.grad = None
    return {name: gradients[name].flatten()[None] for name in list(weights)[:: len(weights) // 8] if name in gradients}


def seconds(function: Callable[[], Any]) -> float:
    """The CPU seconds of a call, with those of the C++ compiler that it starts."""
    before = os.times()
    function()
    after = os.times()
    return sum(after[:4]) - sum(before[:4])
