"""What can differ on a GPU: results compared with the CPU's and the released code's, memory, threads, precision.

Run `pytest tests/test_gpu.py` where torch finds a GPU; elsewhere all of these tests are skipped.
"""

import json
import os
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from builders import build_backbone, images, latents, relative_error
from builders_captioner import build_blip2
from builders_personalize import QUICK, build_model, learn, pictures
from golden import CASES, TOLERANCE, build, expected_map, golden
from PIL import Image
from safetensors.torch import load_file
from torch.utils.data import DataLoader

import tadp
from tadp import Captioner, Conditioning
from tadp.datasets import RenderedScenes, collate
from tadp.tasks import TADPForDepthEstimation, TADPForObjectDetection, TADPForSemanticSegmentation

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
GPU = "cuda"
ROOT = Path(__file__).parent.parent
PATHS = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
ENVIRONMENT = os.environ | {"PYTHONPATH": PATHS, "HF_HUB_OFFLINE": "1"}
CAPTIONS = ["a dog on grass", "a red cat and a blue coat"]
SCENES = RenderedScenes(2, seed=3)
MODELS = {  # for each class, its options and the name of its labels in a batch
    TADPForSemanticSegmentation: ({"class_names": SCENES.class_names}, "masks"),
    TADPForDepthEstimation: ({"max_depth_m": 10.0}, "depth_m"),
    TADPForObjectDetection: ({"class_names": SCENES.box_class_names}, "boxes"),
}


@pytest.fixture(autouse=True)
def exact():
    """Compute float32 in float32: by default cuDNN's convolutions use TensorFloat-32, which is off by 1e-3."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def parts(features) -> list[torch.Tensor]:
    recorded = [] if features.attention is None else [features.attention.at(k) for k in features.attention.levels]
    return [feature.detach().cpu() for feature in (*features.maps, *recorded)]


def furthest(actual, expected) -> float:
    return max(relative_error(a, b) for a, b in zip(parts(actual), parts(expected), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", CASES)
def test_every_map_is_the_released_codes(case, dtype):
    backbone = build.__wrapped__(case, dtype).to(GPU)
    with torch.no_grad():
        features = backbone(golden("inputs")["image"].double() / 255, Conditioning(golden("inputs")["context"].float()))
    for level, feature in enumerate(features.maps):
        assert feature.is_cuda
        assert feature.dtype == dtype
        assert relative_error(feature.cpu(), expected_map(case, level)) < TOLERANCE


@pytest.mark.parametrize("size", [(64, 64), (97, 201), (333, 500), (65, 511), (8, 8)])
def test_maps_and_attention_are_those_of_the_cpu(backbone, size):
    moved = build_backbone().to(GPU)
    with torch.no_grad():
        assert furthest(moved(images(2, *size), CAPTIONS), backbone(images(2, *size), CAPTIONS)) < 1e-4


def test_pixels_and_text_come_from_wherever_they_are(backbone):
    moved, text = build_backbone().to(GPU), backbone.encode_text(CAPTIONS)
    with torch.no_grad():
        expected = backbone(images(2, 64, 64), text)
        for pixels, words in ((images(2, 64, 64), text.to(GPU)), (images(2, 64, 64).to(GPU), text)):
            assert furthest(moved(pixels, words), expected) < 1e-4


def test_recording_changes_no_map():
    backbone, pixels = build_backbone(attach_attention=()).to(GPU), images(2, 64, 96)
    with torch.no_grad():
        plain = backbone(pixels, CAPTIONS)
        backbone = backbone.with_options(record_attention=(0, 1, 2))
        recorded = backbone(pixels, CAPTIONS)
    assert plain.attention is None
    assert recorded.attention.levels == (0, 1, 2)
    assert max(map(relative_error, recorded.maps, plain.maps)) < 1e-5
    for level in (0, 1, 2):
        torch.testing.assert_close(recorded.attention.at(level).sum(1).cpu(), torch.ones(2, *level_size(level)))


def level_size(level: int) -> tuple[int, int]:
    return 8 >> level, 12 >> level


def test_two_threads_share_a_backbone_and_get_their_own_maps():
    backbone = build_backbone().to(GPU)
    pixels = [images(1, 64, 64, seed=seed) for seed in range(2)]
    with torch.no_grad():
        alone = [backbone(image, caption) for image, caption in zip(pixels, CAPTIONS, strict=True)]
    assert relative_error(parts(alone[0])[1], parts(alone[1])[1]) > 0.01

    def work(number: int):
        with torch.no_grad():
            return [backbone(pixels[number], CAPTIONS[number]) for _ in range(8)]

    with ThreadPoolExecutor(2) as pool:
        for expected, results in zip(alone, pool.map(work, range(2)), strict=True):
            assert max(furthest(result, expected) for result in results) < 1e-5


def gradients(backbone) -> dict[str, torch.Tensor]:
    grads = {
        name: parameter.grad.cpu() for name, parameter in backbone.unet.named_parameters() if parameter.grad is not None
    }
    backbone.zero_grad(set_to_none=True)
    return grads


def test_gradients_are_those_of_the_cpu_and_of_checkpointing():
    here, there = build_backbone().train(), build_backbone().to(GPU).train()
    for backbone in (here, there):
        sum(feature.square().mean() for feature in backbone(images(2, 64, 64), CAPTIONS).maps).backward()
    expected, moved = gradients(here), gradients(there)
    there.enable_gradient_checkpointing()
    with there.conditioning(CAPTIONS):  # backward runs in its own thread
        loss = sum(feature.square().mean() for feature in there(images(2, 64, 64)).maps)
    loss.backward()
    again = gradients(there)
    assert expected.keys() == moved.keys() == again.keys()
    size = torch.cat([gradient.flatten() for gradient in expected.values()]).norm()
    for name, gradient in expected.items():
        assert (moved[name] - gradient).norm() < 1e-4 * size
        assert (again[name] - gradient).norm() < 1e-4 * size


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_half_precision_is_near_and_has_one_dtype(backbone, dtype, memory_format):
    moved = build_backbone().to(GPU, dtype=dtype, memory_format=memory_format)
    with torch.no_grad():
        features, expected = moved(images(2, 64, 64), CAPTIONS), backbone(images(2, 64, 64), CAPTIONS)
    assert {feature.dtype for feature in features.maps} == {dtype}
    assert furthest(features, expected) < 0.1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_trains(dtype):
    backbone = build_backbone().to(GPU).train()
    with torch.autocast(GPU, dtype):
        loss = sum(feature.float().square().mean() for feature in backbone(images(2, 64, 64), CAPTIONS).maps)
    loss.backward()
    grads = gradients(backbone)
    assert {gradient.dtype for gradient in grads.values()} == {torch.float32}
    assert all(gradient.isfinite().all() for gradient in grads.values())


def test_nothing_stays_on_the_gpu_after_a_call():
    backbone = build_backbone().to(GPU)

    def held() -> int:
        with torch.no_grad():
            backbone(images(2, 256, 256), CAPTIONS)
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()

    held()  # allocates the libraries' workspaces
    assert held() == held()


def test_recording_takes_no_memory_of_all_heads_probabilities():
    """For a level of 64x64 cells, scores and probabilities of 2 heads would take 256 MiB in float32."""
    backbone = build_backbone(record_attention=(0, 1, 2)).to(GPU)
    text, cells = backbone.encode_text("a dog"), latents(1, 64, 64).to(GPU)
    with torch.no_grad():
        backbone.extract(cells, text)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        backbone.extract(cells, text)
    assert torch.cuda.max_memory_allocated() - before < 128 * 2**20


def test_a_large_image_goes_window_by_window_and_its_maps_stay_on_the_cpu():
    backbone = build_backbone().to(GPU)
    with torch.no_grad():
        here = backbone.tiled(images(1, 192, 256), "a dog", tile_px=128, overlap_px=64, device="cpu")
        there = backbone.tiled(images(1, 192, 256), "a dog", tile_px=128, overlap_px=64)
    assert {feature.device.type for feature in here.maps} == {"cpu"}
    assert {feature.device.type for feature in there.maps} == {GPU}
    assert furthest(here, there) < 1e-5


@pytest.mark.parametrize("kind", MODELS)
def test_a_model_learns_and_predicts_as_on_the_cpu(kind):
    torch.manual_seed(0)
    options, labels = MODELS[kind]
    model = kind(build_backbone(), **options).eval()
    here = model.predict(images(1, 96, 130)[0], CAPTIONS[0])
    there = model.to(GPU).predict(images(1, 96, 130)[0], CAPTIONS[0])
    for name, value in vars(here).items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            torch.testing.assert_close(getattr(there, name).cpu(), value, rtol=1e-2, atol=1e-3)
    (batch,) = DataLoader(SCENES, batch_size=2, collate_fn=collate, pin_memory=True)
    batch = batch.to(GPU, non_blocking=True)
    loss = model.train()(batch.images, list(batch.captions), getattr(batch, labels)).loss
    loss.backward()
    grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert all(gradient.is_cuda and gradient.isfinite().all() for gradient in grads)
    assert any(gradient.abs().sum() > 0 for gradient in grads)


def test_a_compiled_backbone_gives_the_same(no_type_checker):
    backbone = tadp.TADPBackbone.from_pretrained("tadp-tiny", device=GPU)
    text = backbone.encode_text(["a red car on a street"])
    with torch.no_grad(), warnings.catch_warnings(action="ignore"):  # from torch itself
        compiled = torch.compile(backbone)
        assert furthest(compiled(images(1, 128, 128), text), backbone(images(1, 128, 128), text)) < 1e-4


@pytest.mark.parametrize("name", ["tadp-tiny", "blip2"])
def test_captions_are_those_of_the_cpu(name, tmp_path):
    source = build_blip2(tmp_path / "blip2") if name == "blip2" else name
    scenes = [scene.image for scene in RenderedScenes(3, seed=5)]
    captioner, moved = (Captioner.from_pretrained(source, device=device) for device in ("cpu", GPU))
    with warnings.catch_warnings(action="ignore"):  # a random captioner writes nothing useful
        assert moved(scenes) == captioner(scenes)


def test_a_token_is_learned(tmp_path):
    source = build_model(tmp_path / "sd")
    learn(source, pictures(), **QUICK, device=GPU, output=tmp_path / "token")
    learn(source, pictures(), **QUICK, output=tmp_path / "here")
    (there,), (here,) = (
        load_file(tmp_path / name / "learned_embeds.safetensors").values() for name in ("token", "here")
    )
    assert relative_error(there, here) < 1e-2  # the noise is drawn on the CPU, so it is the same for both


def test_the_command_line_takes_the_gpu_by_itself(tmp_path):
    Image.fromarray(pictures(1)[0]).save(tmp_path / "scene.png")
    command = [sys.executable, "-m", "tadp", "extract", str(tmp_path / "scene.png"), "--caption", "a red car"]
    for name, options in (("auto", []), ("cpu", ["--device", "cpu"])):
        subprocess.run(
            [*command, "-o", str(tmp_path / name), *options], check=True, capture_output=True, env=ENVIRONMENT
        )
    auto, cpu = (load_file(tmp_path / name / "scene.safetensors") for name in ("auto", "cpu"))
    assert auto.keys() == cpu.keys()
    assert 0 < max(relative_error(auto[key], cpu[key]) for key in cpu) < 1e-2  # users have TensorFloat-32 on


def test_an_example_trains_in_bfloat16(tmp_path):
    script = ROOT / "examples" / "segmentation.py"
    small = "--steps 4 --train-scenes 8 --held-out-scenes 4 --batch 4 --mixed-precision bf16 --tune all --log-every 1"
    command = [sys.executable, str(script), *small.split(), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert f"on {GPU}" in done.stdout + done.stderr
    losses = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 4
    assert torch.tensor(losses).isfinite().all()
