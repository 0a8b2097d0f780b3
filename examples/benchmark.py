"""How fast is the backbone, and how much memory does it take, against the plain way of doing the same?

    python examples/benchmark.py                 # Stable Diffusion 1.5's size, 512x512, about ten minutes on two cores
    python examples/benchmark.py --size tiny     # seconds, to see that it runs

Random weights: speed does not depend on them. The plain way is what the released code does: float32, contiguous,
every attention probability written out. Each variant runs in a process of its own against the plain way, turn by turn,
so that a drifting machine slows both; process CPU time and peak memory above the weights are compared round by round.
"""

import argparse
import gc
import json
import multiprocessing as mp
import os
import platform
import resource
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch.utils.flop_counter import FlopCounterMode

from tadp import Conditioning, TADPBackbone
from tadp.vae import VAEEncoder

SD15_UNET = {"block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768, "attention_head_dim": 8}
SD15_VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
TINY_UNET = SD15_UNET | {"block_out_channels": (32, 64, 64, 64), "cross_attention_dim": 32}
TINY_VAE = SD15_VAE | {"block_out_channels": (32, 32, 64, 64)}
SIZES = {"sd15": (SD15_UNET, SD15_VAE, 512), "tiny": (TINY_UNET, TINY_VAE, 256)}
ATTENTION_LEVELS = (1, 2)
KEPT_TOKENS = 32**2  # the released code keeps the means of layers with up to 32 x 32 cells, at 512 pixels


@dataclass(frozen=True)
class Variant:
    """One way to run the same two networks."""

    name: str
    dtype: torch.dtype = torch.float32
    memory_format: torch.memory_format = torch.contiguous_format
    plain: bool = False


PLAIN = Variant("plain, float32", plain=True)
VARIANTS = (
    Variant("tadp, float32"),
    Variant("tadp, float32, channels_last", memory_format=torch.channels_last),
    Variant("tadp, bfloat16", dtype=torch.bfloat16),
    Variant("tadp, bfloat16, channels_last", dtype=torch.bfloat16, memory_format=torch.channels_last),
)


class PlainProcessor(AttnProcessor):
    """Every probability written out and averaged over the heads, self-attention's too, as the released code does."""

    def __init__(self):
        super().__init__()
        self.kept: list[torch.Tensor] = []

    def __call__(self, attn: Attention, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = map(
            attn.head_to_batch_dim, (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )
        probabilities = (torch.einsum("bid,bjd->bij", query, key) * attn.scale).softmax(dim=-1)
        mean = probabilities.unflatten(0, (-1, attn.heads)).mean(dim=1)
        if mean.shape[1] <= KEPT_TOKENS:
            self.kept.append(mean)
        return attn.to_out[0](attn.batch_to_head_dim(probabilities @ value))


def build(size: str, variant: Variant) -> tuple[TADPBackbone, torch.Tensor, Conditioning]:
    """A backbone with random weights, an image and a text."""
    unet_config, vae_config, side = SIZES[size]
    with torch.device("meta"):
        unet, encoder = UNet2DConditionModel(**unet_config), VAEEncoder(AutoencoderKL(**vae_config))
    torch.manual_seed(0)
    for module in (unet, encoder):
        module.to_empty(device="cpu")
        for name, parameter in module.named_parameters():
            with torch.no_grad():
                if parameter.ndim > 1:
                    parameter.normal_(std=parameter[0].numel() ** -0.5)
                else:
                    parameter.fill_(float(name.endswith("weight")))
    backbone = TADPBackbone(vae=encoder, unet=unet, attach_attention=ATTENTION_LEVELS, text_length=77).freeze().eval()
    backbone.to(dtype=variant.dtype, memory_format=variant.memory_format)
    if variant.plain:
        unet.set_attn_processor(PlainProcessor())
        for module in encoder.modules():
            if isinstance(module, Attention):
                module.set_processor(AttnProcessor())
    text = Conditioning(torch.randn(1, 77, unet_config["cross_attention_dim"]))
    return backbone, torch.rand(1, 3, side, side), text


def worker(size: str, variant: Variant, threads: int, pipe) -> None:
    """Build, then answer each "run" with the figures of one pass."""
    torch.set_num_threads(threads)
    backbone, image, text = build(size, variant)
    text = text.to(dtype=variant.dtype)
    pipe.send(sum(p.numel() * p.element_size() for p in backbone.parameters()))
    while pipe.recv() == "run":
        with torch.inference_mode():
            encode, latents = _measure(lambda: _encode(backbone, variant, image))
            extract, maps = _measure(lambda: _extract(backbone, variant, latents, text))  # noqa: B023  called at once
        pipe.send({"encode": encode, "extract": extract, "maps": [one.float() for one in maps]})


def _encode(backbone: TADPBackbone, variant: Variant, image: torch.Tensor) -> torch.Tensor:
    if not variant.plain:
        return backbone.encode_image(image)
    moments = backbone.vae.quant_conv(backbone.vae.encoder(2 * image - 1))  # diffusers' own forward
    return DiagonalGaussianDistribution(moments).mode() * backbone.vae.scaling_factor


def _extract(backbone: TADPBackbone, variant: Variant, latents: torch.Tensor, text: Conditioning):
    if not variant.plain:
        return backbone.extract(latents, text).maps
    processor = next(iter(backbone.unet.attn_processors.values()))
    processor.kept.clear()
    backbone.unet(latents, 0, text.embeddings)
    return [one.mean() for one in processor.kept]


def _measure(function) -> tuple[dict[str, float], object]:
    """CPU seconds, wall seconds and peak bytes above what was there before."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak of resident memory
    before = _status("VmRSS")
    wall, cpu = time.perf_counter(), time.process_time()
    result = function()
    figures = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    return figures | {"peak": _status("VmHWM") - before}, result


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def compare(size: str, variant: Variant, rounds: int, threads: int) -> dict:
    """Run a variant and the plain way in turn; medians of the ratios plain / variant."""
    context = mp.get_context("spawn")
    pipes, processes = [], []
    for one in (PLAIN, variant):
        here, there = context.Pipe()
        process = context.Process(target=worker, args=(size, one, threads, there))
        process.start()
        pipes.append(here)
        processes.append(process)
        here.recv()
    results = []
    for number in range(rounds + 1):  # the first is a warm-up
        row = []
        for pipe in pipes:
            pipe.send("run")
            row.append(pipe.recv())
        if number:
            results.append(row)
    for pipe, process in zip(pipes, processes, strict=True):
        pipe.send("stop")
        process.join()
    return _ratios(variant, results)


def _ratios(variant: Variant, results: list) -> dict:
    def median(values: list[float]) -> float:
        return float(torch.tensor(values, dtype=torch.float64).median())

    def ratio(of) -> float:
        return median([of(plain) / of(ours) for plain, ours in results])

    return {
        "name": variant.name,
        "unet_cpu": ratio(lambda one: one["extract"]["cpu"]),
        "unet_wall": ratio(lambda one: one["extract"]["wall"]),
        "both_cpu": ratio(lambda one: one["encode"]["cpu"] + one["extract"]["cpu"]),
        "both_wall": ratio(lambda one: one["encode"]["wall"] + one["extract"]["wall"]),
        "unet_memory": median([ours["extract"]["peak"] / plain["extract"]["peak"] for plain, ours in results]),
        "vae_memory": median([ours["encode"]["peak"] / plain["encode"]["peak"] for plain, ours in results]),
        "encode_seconds": median([ours["encode"]["wall"] for _, ours in results]),
        "extract_seconds": median([ours["extract"]["wall"] for _, ours in results]),
        "maps": results[-1][1]["maps"],
    }


def count_flops(size: str) -> dict[str, float]:
    """Multiply-adds times two of one pass, without running it."""
    unet_config, vae_config, side = SIZES[size]
    with torch.device("meta"):
        backbone = TADPBackbone(
            vae=AutoencoderKL(**vae_config),
            unet=UNet2DConditionModel(**unet_config),
            attach_attention=ATTENTION_LEVELS,
            text_length=77,
        ).eval()
        image, text = torch.rand(1, 3, side, side), Conditioning(torch.rand(1, 77, unet_config["cross_attention_dim"]))
        latents = torch.rand(1, 4, side // 8, side // 8)
    with torch.no_grad(), FlopCounterMode(display=False) as encode:
        backbone.vae(image)
    with torch.no_grad(), FlopCounterMode(display=False) as extract:
        backbone.extract(latents, text)
    return {"VAE encoder": encode.get_total_flops() / 1e9, "U-Net": extract.get_total_flops() / 1e9}


def best_convolution_rate(dtype: torch.dtype, memory_format: torch.memory_format) -> float:
    """GFLOP/s of the fastest 3x3 convolution of the U-Net's and VAE's shapes on this machine."""
    best = 0.0
    for channels, side in ((320, 64), (640, 32), (1280, 16), (256, 256), (512, 64)):
        conv = torch.nn.Conv2d(channels, channels, 3, padding=1, dtype=dtype).to(memory_format=memory_format)
        x = torch.randn(1, channels, side, side, dtype=dtype).contiguous(memory_format=memory_format)
        with torch.inference_mode():
            for _ in range(4):
                start = time.perf_counter()
                conv(x)
                best = max(best, 2 * 9 * channels**2 * side**2 / (time.perf_counter() - start) / 1e9)
    return best


def relative_error(maps: list[torch.Tensor], reference: list[torch.Tensor]) -> float:
    """The largest relative L2 error over the maps."""
    return max(float((a - b).norm() / b.norm()) for a, b in zip(maps, reference, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="sd15")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, help="write OUT.json and OUT.md")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    flops = count_flops(options.size)
    rows = [compare(options.size, variant, options.rounds, options.threads) for variant in VARIANTS]
    reference = rows[0]["maps"]
    for row, variant in zip(rows, VARIANTS, strict=True):
        row["error"] = relative_error(row.pop("maps"), reference)
        rate = best_convolution_rate(variant.dtype, variant.memory_format)
        row["share_of_best_rate"] = sum(flops.values()) / (row["encode_seconds"] + row["extract_seconds"]) / rate
        row["best_rate_gflops"] = rate
    report = _markdown(options, flops, rows)
    print(report)
    if options.out:
        options.out.with_suffix(".md").write_text(report)
        options.out.with_suffix(".json").write_text(json.dumps({"gflop": flops, "rows": rows}, indent=2) + "\n")


def _markdown(options: argparse.Namespace, flops: dict[str, float], rows: list[dict]) -> str:
    side = SIZES[options.size][2]
    counted = ", ".join(f"{name} {value:,.0f} GFLOP" for name, value in flops.items())
    command = (
        f"python examples/benchmark.py --size {options.size} --rounds {options.rounds} --threads {options.threads}"
    )
    lines = [
        "# Speed and memory against the plain way",
        "",
        f"Command: `{command}`; {side}x{side}, batch 1, {platform.machine()}, torch {torch.__version__}. "
        f"Counted: {counted}.",
        "",
        "Times faster than the plain way: medians of rounds in turn, process CPU time, wall time in brackets. Memory "
        "is the peak above the weights as a share of the plain way's. Difference is the largest relative L2 error of a "
        "map against tadp in float32. The last column is the speed as a share of this machine's best convolution rate.",
        "",
        "| | U-Net | VAE + U-Net | U-Net memory | VAE memory | difference | share of best rate |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = (
            row["name"],
            f"{row['unet_cpu']:.2f} ({row['unet_wall']:.2f})",
            f"{row['both_cpu']:.2f} ({row['both_wall']:.2f})",
            f"{row['unet_memory']:.2f}",
            f"{row['vae_memory']:.2f}",
            f"{row['error']:.1e}",
            f"{row['share_of_best_rate']:.0%} of {row['best_rate_gflops']:.0f} GFLOP/s",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
