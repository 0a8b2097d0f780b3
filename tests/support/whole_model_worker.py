"""Export and compile whole models of other frameworks, for test_whole_models, in a process without the type checker.

Each function prints lines: a name, and the largest difference from the model itself, relative to its largest output.
"""

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from builders import build_backbone, build_folder, build_unet, images
from torch import Tensor, nn

from tadp import TADPBackbone
from tadp.integrations import Pyramid

TEXT = "a dog"
PIXELS = images(2, 64, 64)
# One level, with attention only in the up block: the time of tracing grows with the number of layers.
SMALLEST: dict[str, Any] = {
    "channels": (8,), "down_block_types": ("DownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",),
    "mid_block_type": None,
}  # fmt: skip


def difference(actual: Tensor, expected: Tensor) -> float:
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def run_onnx(path: Path, pixels: Tensor) -> list[Tensor]:
    session = onnxruntime.InferenceSession(path)
    [name] = [value.name for value in session.get_inputs()]
    return [torch.from_numpy(array) for array in session.run(None, {name: pixels.numpy()})]


def torchscript(model: nn.Module, inputs: Any, folder: Path) -> Path:
    path = folder / "torchscript.onnx"
    torch.onnx.export(model, (inputs,), path, dynamo=False, opset_version=18)
    return path


def program_has_no_text_encoder(program: torch.export.ExportedProgram) -> bool:
    used = [value for node in program.graph.nodes for value in node.all_input_nodes]
    return not any("text_encoder" in node.name for node in used)


@torch.no_grad()
def of_smp(folder: Path) -> None:
    """A Unet by strict export, by ONNX from the program, and by TorchScript; the text follows the text encoder."""
    import segmentation_models_pytorch as smp

    from tadp.integrations.smp import register

    register(build_folder(folder / "sd", **SMALLEST), name="tadp", text=TEXT, attach_attention=(0,))
    model = smp.Unet("tadp", encoder_weights=None, encoder_depth=3, decoder_channels=(8, 8, 8), classes=3).eval()
    weight = model.encoder.pyramid.backbone.text_encoder.model.get_input_embeddings().weight
    before = model(PIXELS)
    weight.copy_(weight.flip(0))  # another text encoder, after the text was encoded
    try:
        torch.export.export(model, (PIXELS,), strict=False)
    except Exception as error:
        print("outdated", error)
    program = torch.export.export(model, (PIXELS,), strict=True)
    expected = model(PIXELS)
    print("change", difference(before, expected))
    print("strict", difference(program.module()(PIXELS), expected))
    print("encoder", program_has_no_text_encoder(program))
    torch.onnx.export(program, (), folder / "program.onnx", dynamo=True, verbose=False)
    print("onnx", difference(run_onnx(folder / "program.onnx", PIXELS)[0], expected))
    print("torchscript", difference(run_onnx(torchscript(model, PIXELS, folder), PIXELS)[0], expected))


@torch.no_grad()
def of_transformers(folder: Path) -> None:
    """UperNet by TorchScript, right after it was loaded, and by torch.compile."""
    from transformers import UperNetConfig, UperNetForSemanticSegmentation

    from tadp.integrations.transformers import TADPConfig, register

    register()
    base, options = build_folder(folder / "sd", **SMALLEST), {"attach_attention": (0,)}
    config = TADPConfig(base_model=str(base), text=TEXT, stride4="vae", backbone_options=options)
    UperNetForSemanticSegmentation(
        UperNetConfig(backbone_config=config, num_labels=3, hidden_size=8, use_auxiliary_head=False, pool_scales=[2])
    ).save_pretrained(folder / "model")
    model = UperNetForSemanticSegmentation.from_pretrained(folder / "model")  # which encodes the text
    path = torchscript(model, PIXELS, folder)
    expected = model(PIXELS).logits
    print("torchscript", difference(run_onnx(path, PIXELS)[0], expected))
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    print("compile", difference(compiled(PIXELS).logits, expected))
    with model.backbone.pyramid.backbone.conditioning("a red cat"):
        try:
            compiled(PIXELS)
        except Exception as error:
            print("reason", " ".join(str(error).split()))


@torch.no_grad()
def of_torchvision(folder: Path) -> None:
    """The backbone with its FPN by export; the whole detector by TorchScript; text that no graph can encode."""
    from torchvision.models.detection import FasterRCNN

    from tadp.integrations.torchvision import DetectionBackbone

    torch.manual_seed(0)
    base = TADPBackbone.from_pretrained(build_folder(folder / "sd", **SMALLEST), attach_attention=(0,))
    backbone = DetectionBackbone(base, out_channels=8, text=TEXT).eval()
    program = torch.export.export(backbone, (PIXELS,), strict=False)
    print("export", difference(program.module()(PIXELS)["0"], backbone(PIXELS)["0"]))
    few = {"rpn_post_nms_top_n_test": 20, "box_detections_per_img": 5, "box_score_thresh": 0.0}
    sizes = {"min_size": 64, "max_size": 64}
    model = FasterRCNN(backbone, num_classes=3, **sizes, **few, **backbone.options("faster_rcnn")).eval()
    [expected] = model([PIXELS[0]])
    path = torchscript(model, [PIXELS[0]], folder)
    for name, actual in zip(expected, run_onnx(path, PIXELS[0]), strict=True):
        print(name, difference(actual.float(), expected[name].float()))
    blocks = Pyramid(build_backbone(unet=build_unet(**SMALLEST), attach_attention=()), text=TEXT).eval()
    for name, make in (("block", torch.export.export), ("trace", lambda of, args: torch.jit.trace(of, *args))):
        with blocks.backbone.conditioning([TEXT, "a red cat"]):
            try:
                make(blocks, (PIXELS,))
            except Exception as error:
                print(name, error)


def run(function: Callable[[Path], None]) -> None:
    """Call one of the functions above with an empty folder."""
    warnings.simplefilter("ignore")  # those of exporters about themselves
    with tempfile.TemporaryDirectory() as folder:
        function(Path(folder))
