"""Files of the paper's release, of VPD and of mmseg's VPD, written in their names, become models of ours."""

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import originals
import pytest
import torch
from builders import WIDTH, build_backbone, build_folder, build_unet, images, relative_error
from safetensors.torch import load_file, save_file
from test_parity import GOLDEN, TOLERANCE, expected_map, golden
from torch import Tensor, nn

from tadp import Conditioning, TADPBackbone
from tadp.boxes import Boxes
from tadp.convert import Report, convert_file
from tadp.errors import CorruptFileError, MissingFileError, ModelError, OutputError
from tadp.loading import load_unet, load_vae
from tadp.tasks import TADPForDepthEstimation, TADPForObjectDetection, TADPForSemanticSegmentation, TaskModel

CLASSES = ["sky", "tree", "house"]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return build_folder(tmp_path_factory.mktemp("base"))


@dataclass
class Original:
    """A file's content, and the model of ours it was written from."""

    model: TaskModel
    state: dict[str, Tensor]
    wrap: Any = lambda state: state
    options: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> Path:
        torch.save(self.wrap(self.state), path)
        return path


def backbone_of(base: Path, **options: Any) -> TADPBackbone:
    """The base with a U-Net and a text adapter that were trained."""
    trained = TADPBackbone.from_pretrained(base, unet=build_unet(seed=5), timestep=1, **options)
    if trained.text_adapter is not None:
        randomise(trained.text_adapter, seed=6)
    return trained


def randomise(module: nn.Module, *, seed: int) -> None:
    """Every tensor different from what a constructor makes, running statistics too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in module.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.2 + 0.05)
            else:
                tensor.fill_(7)


def class_embeddings(count: int) -> Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(9))


def whole(backbone: TADPBackbone, prefix: str, *, vae: bool = True, text: bool = True) -> dict[str, Tensor]:
    """What the release keeps of Stable Diffusion besides the U-Net."""
    assert backbone.text_encoder is not None
    state = originals.write_schedule(prefix)
    state |= originals.write_vae(backbone.vae, f"{prefix}first_stage_model.") if vae else {}
    return state | (
        originals.write_text(backbone.text_encoder.model, f"{prefix}cond_stage_model.transformer.") if text else {}
    )


def depth_model(backbone: TADPBackbone, **options: Any) -> TADPForDepthEstimation:
    options = {
        "max_depth_m": 10.0,
        "window_px": 480,
        "pad_with_grey": True,
        "head_options": {"channels": 8, "deconv_channels": [32, 16, 8]},
    } | options
    model = TADPForDepthEstimation(backbone, **options).eval()
    randomise(model.head, seed=1)
    return model


def segmentation_model(backbone: TADPBackbone, **options: Any) -> TADPForSemanticSegmentation:
    options = {"class_names": CLASSES, "head_options": {"fpn_channels": 8, "channels": 12}} | options
    model = TADPForSemanticSegmentation(backbone, window_px=512, stride_px=341, **options).eval()
    randomise(model.head, seed=1)
    return model


def tadp_depth(base: Path) -> Original:
    """Released depth: captions, scaled latents; U-Net and VAE twice, unused class embeddings and gamma."""
    model = depth_model(backbone_of(base, attach_attention=()))
    backbone = model.backbone
    unet = originals.write_unet(backbone.unet, "encoder.unet.unet.diffusion_model.", output=False)
    again = {key.replace("encoder.unet.unet.", "encoder.sd_model.model."): value for key, value in unet.items()}
    state = unet | again | originals.write_vae(backbone.vae, "encoder.encoder_vq.")
    state |= whole(backbone, "encoder.sd_model.") | originals.write_depth_head(model.head)
    state |= {"encoder.class_embeddings": class_embeddings(27), "encoder.gamma": torch.full((WIDTH,), 1e-4)}
    return Original(
        model,
        {f"module.{key}": value for key, value in state.items()},
        lambda state: {"model": state, "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": []}},
    )


def vpd_depth(base: Path) -> Original:
    model = depth_model(
        backbone_of(base, attach_attention=(), scale_latents=False, text_adapter=True), prompt_mode="stored"
    )
    embeddings = class_embeddings(27)
    model.store_text(Conditioning(embeddings.mean(dim=0, keepdim=True)[None]))
    backbone = model.backbone
    assert backbone.text_adapter is not None
    state = originals.write_unet(backbone.unet, "encoder.unet.unet.diffusion_model.", output=False)
    state |= originals.write_vae(backbone.vae, "encoder.encoder_vq.") | originals.write_depth_head(model.head)
    state |= originals.write_adapter(backbone.text_adapter, "encoder.") | {"encoder.class_embeddings": embeddings}
    return Original(model, state, lambda state: {"model": state})


def mmseg_depth(base: Path) -> Original:
    """Its 28th embedding is the mean; the VAE has its decoder."""
    made = vpd_depth(base)
    backbone = made.model.backbone
    assert backbone.text_adapter is not None
    embeddings = class_embeddings(27)
    state = originals.write_unet(backbone.unet, "backbone.unet.unet.diffusion_model.")
    state |= originals.write_vae(backbone.vae, "backbone.encoder_vq.")
    state |= {"backbone.encoder_vq.decoder.conv_in.weight": torch.zeros(3)}
    state |= originals.write_adapter(backbone.text_adapter, "backbone.")
    state |= {"backbone.class_embeddings": torch.cat([embeddings, embeddings.mean(dim=0, keepdim=True)])}
    state |= originals.write_mmseg_depth_head(made.model.head)
    return Original(made.model, state, lambda state: {"meta": {"dataset_meta": {}}, "state_dict": state})


def mmcv_meta(**more: object) -> dict[str, object]:
    """As mmcv 1.6 saves beside the best weights: the score is a number of numpy."""
    return {"epoch": 1, "iter": 80000, "hook_msgs": {"best_score": np.float64(0.53)}, "CLASSES": tuple(CLASSES)} | more


def tadp_segmentation(base: Path) -> Original:
    """Released ADE20K: captions, scaled latents; the VAE stays in the whole model."""
    model = segmentation_model(backbone_of(base))
    state = originals.write_unet(model.backbone.unet, "unet.unet.diffusion_model.")
    state |= whole(model.backbone, "sd_model.") | originals.write_mmcv_head(model.head)
    return Original(model, state, lambda state: {"meta": mmcv_meta(), "state_dict": state, "optimizer": {}})


def vpd_segmentation(base: Path) -> Original:
    """VPD's: one embedding a class, each with its attention; unscaled latents."""
    backbone = backbone_of(base, scale_latents=False, text_adapter=True, text_length=3)
    model = segmentation_model(backbone, prompt_mode="stored")
    embeddings = class_embeddings(3)
    model.store_text(Conditioning(embeddings[None]))
    assert backbone.text_adapter is not None
    state = originals.write_unet(backbone.unet, "unet.unet.diffusion_model.")
    state |= originals.write_vae(backbone.vae, "encoder_vq.") | originals.write_adapter(backbone.text_adapter, "")
    state |= whole(backbone, "sd_model.", vae=False, text=False) | {"class_embeddings": embeddings}
    state |= originals.write_mmcv_head(model.head)
    return Original(model, state, lambda state: {"meta": mmcv_meta(), "state_dict": state})


def tadp_detection(base: Path) -> Original:
    """Released Watercolor2k: captions, ImageNet's normalisation, an unused adapter, a ResNet nobody runs; bare."""
    model = TADPForObjectDetection(
        backbone_of(base, imagenet_pixels=True),
        class_names=[f"thing {number}" for number in range(20)],
        head_options={"channels": 8, "hidden_channels": 16},
    ).eval()
    randomise(model.head, seed=1)
    state = originals.write_unet(model.backbone.unet, "model.unet.diffusion_model.")
    state |= whole(model.backbone, "sd_model.") | originals.write_detection_head(model.head)
    state |= {"class_embeddings": class_embeddings(21), "gamma": torch.full((WIDTH,), 1e-4)}
    state |= {"text_adapter.fc.0.weight": torch.zeros(WIDTH, WIDTH)}
    return Original(model, state, options={"class_names": model.class_names})


FORMS = {
    "tadp depth": tadp_depth,
    "vpd depth": vpd_depth,
    "mmseg depth": mmseg_depth,
    "tadp segmentation": tadp_segmentation,
    "vpd segmentation": vpd_segmentation,
    "tadp detection": tadp_detection,
}


@cache
def _written(form: str, base: Path) -> Original:
    return FORMS[form](base)


def original_of(form: str, base: Path) -> Original:
    """One that may be changed, all but its tensors and its model."""
    made = _written(form, base)
    return Original(made.model, dict(made.state), made.wrap, made.options)


def convert(original: Original, base: Path, folder: Path, **options: Any) -> tuple[TaskModel, Report]:
    path = original.save(folder / "file.pth")
    report = convert_file(path, folder / "made", base_model=base, **(original.options | options))
    return type(original.model).from_pretrained(folder / "made"), report


def output_of(model: TaskModel, pixels: Tensor) -> Tensor:
    caption = "a dog and a cat" if model.prompt_mode == "captions" else None
    with torch.no_grad():
        if isinstance(model, TADPForObjectDetection):  # its detections are few and far between
            boxes = [Boxes(torch.tensor([[4.0, 4.0, 40.0, 50.0]]), torch.tensor([3]))] * len(pixels)
            torch.manual_seed(0)  # Faster R-CNN samples
            return torch.stack(list(model(pixels, caption, boxes).losses.values()))
        made = model(pixels, caption)
        return made.depth_m if isinstance(model, TADPForDepthEstimation) else made.logits


@pytest.mark.parametrize("form", FORMS)
def test_a_file_becomes_the_model_it_was_written_from(form, base, tmp_path):
    original = original_of(form, base)
    model, report = convert(original, base, tmp_path)
    assert (model.backbone.options, model.options) == (original.model.backbone.options, original.model.options)
    assert not model.training
    for name, tensor in original.model.head.state_dict().items():
        assert torch.equal(model.head.state_dict()[name], tensor), name
    pixels = images(2, 64, 96)
    expected = output_of(original.model, pixels)
    assert expected.isfinite().all()
    torch.testing.assert_close(output_of(model, pixels), expected, rtol=1e-5, atol=1e-6)
    tensors = sum(part.tensors for part in report.parts)
    assert tensors == len(original.state) + (form == "tadp depth")  # and the optimizer's


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (
            "tadp depth",
            {"scale_latents": True, "imagenet_pixels": False, "attach_attention": (), "text_adapter": False},
        ),
        ("vpd depth", {"scale_latents": False, "imagenet_pixels": False, "attach_attention": (), "text_adapter": True}),
        ("tadp detection", {"scale_latents": True, "imagenet_pixels": True, "attach_attention": (1, 2)}),
        ("vpd segmentation", {"scale_latents": False, "attach_attention": (1, 2), "prompt_mode": "stored"}),
        ("tadp segmentation", {"scale_latents": True, "imagenet_pixels": False, "prompt_mode": "captions"}),
    ],
)
def test_how_a_file_was_trained_is_in_the_report_and_the_config(form, expected, base, tmp_path):
    model, report = convert(original_of(form, base), base, tmp_path)
    assert report.options.items() >= (expected | {"timestep": 1}).items()
    written = model.backbone.options
    assert written["timestep"] == 1
    assert written["scale_latents"] == report.options["scale_latents"]
    text = str(report)
    assert all(part.name in text and str(part.tensors) in text for part in report.parts)


def test_what_is_dropped_is_said_with_its_reason(base, tmp_path):
    _, report = convert(original_of("tadp depth", base), base, tmp_path)
    fates = {part.name: part.fate for part in report.parts}
    assert fates["U-Net again"] == "dropped: a second copy of encoder.unet.unet.diffusion_model.*, the same"
    assert fates["VAE again"] == "dropped: a second copy of encoder.encoder_vq.*, the same"
    assert fates["VAE encoder"] == fates["text encoder"] == f"dropped: frozen, the same as in {base}"
    assert fates["VAE decoder"] == "dropped: perception never decodes"
    assert fates["optimizer"] == "dropped: of the training"
    assert fates["class embeddings"] == "dropped: the text was captions"
    assert "latents are the posterior's mode; the released code sampled where it scaled" in report.notes


@pytest.mark.parametrize("case", ["t1.unscaled.default", "t1.scaled.default"])
def test_golden_weights_in_the_originals_names_give_the_golden_features(case, tmp_path):
    """The features of the paper's released extractor, for the first image; its text stands as class embeddings."""
    unet = load_unet(GOLDEN, variant=None, dtype=torch.float32)
    vae = load_vae(GOLDEN, variant=None, dtype=torch.float32)
    TADPBackbone(unet=build_like(unet), vae=vae, text_length=11).save_pretrained(tmp_path / "base")
    context = golden("inputs")["context"].float()
    options = {"timestep": 1, "text_length": 11}
    model = segmentation_model(TADPBackbone(unet=unet, vae=vae, **options), prompt_mode="stored")
    state = originals.write_unet(unet, "unet.unet.diffusion_model.")
    scaled = ".scaled." in case
    state |= originals.write_vae(vae, "sd_model.first_stage_model." if scaled else "encoder_vq.")
    state |= {"class_embeddings": context[0]} | originals.write_mmcv_head(model.head)
    made, _ = convert(Original(model, state), tmp_path / "base", tmp_path, class_names=CLASSES)
    assert made.backbone.scale_latents == scaled
    with torch.no_grad():
        features = made.features(golden("inputs")["image"][:1].double() / 255)
    for level, one in enumerate(features.maps):
        assert relative_error(one, expected_map(case, level)[:1]) < TOLERANCE


def build_like(unet: Any) -> Any:
    """The same U-Net untrained, which a conversion must replace."""
    made = type(unet).from_config(dict(unet.config))
    return made.eval()


# What is asked for


def test_a_room_may_be_chosen(base, tmp_path):
    original = original_of("vpd depth", base)
    model, report = convert(original, base, tmp_path, room="kitchen")
    assert model.stored_text is not None
    assert torch.equal(model.stored_text.embeddings[0, 0], original.state["encoder.class_embeddings"][6])
    assert "text: the embedding of kitchen" in report.notes
    other = Conditioning(original.state["encoder.class_embeddings"][None, 8:9])
    assert model.predict(images(1, 64, 64), other).depth_m.shape == (64, 64)
    with pytest.raises(ModelError, match=r"room is one of printer_room, .*; got 'attic'"):
        convert_file(tmp_path / "file.pth", tmp_path / "other", base_model=base, room="attic")


def test_a_depth_file_does_not_tell_its_scale_and_may_be_told(base, tmp_path):
    model, _ = convert(original_of("tadp depth", base), base, tmp_path, scale_latents=False)
    assert model.backbone.scale_latents is False


def test_a_segmentation_file_tells_its_scale(base, tmp_path):
    with pytest.raises(ModelError, match=r"was trained with scale_latents=True, as its names tell"):
        convert(original_of("tadp segmentation", base), base, tmp_path, scale_latents=False)


@pytest.mark.parametrize(
    ("config", "expected"), [("mean=[123.675, 116.28, 103.53]", True), ("mean=[127.5, 127.5, 127.5]", False)]
)
def test_the_config_in_an_mmcv_file_tells_how_pixels_were_normalised(config, expected, base, tmp_path):
    original = original_of("tadp segmentation", base)
    original.wrap = lambda state: {"meta": mmcv_meta(config=config), "state_dict": state}
    _, report = convert(original, base, tmp_path)
    assert report.options["imagenet_pixels"] is expected


def test_nineteen_classes_of_the_release_are_cityscapes_with_its_normalisation(base, tmp_path):
    names = [f"class {number}" for number in range(19)]
    model = segmentation_model(backbone_of(base), class_names=names)
    original = original_of("tadp segmentation", base)
    state = {key: value for key, value in original.state.items() if not key.startswith(("neck.", "decode_head."))}
    made, report = convert(Original(model, state | originals.write_mmcv_head(model.head)), base, tmp_path)
    assert made.class_names[:2] == ("road", "sidewalk")
    assert report.options["imagenet_pixels"]


def test_imagenet_pixels_reach_the_vae(base):
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = images(1, 64, 64)
    normalised = (pixels - mean.view(3, 1, 1)) / deviation.view(3, 1, 1)
    backbone = TADPBackbone.from_pretrained(base, imagenet_pixels=True, scale_latents=False)
    with torch.no_grad():
        expected = backbone.vae(normalised).mode()
    torch.testing.assert_close(backbone.encode_image(pixels), expected)


def test_a_learned_token_in_the_file_needs_its_name(base, tmp_path):
    original = original_of("tadp detection", base)
    key = "sd_model.cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
    vector = torch.randn(1, WIDTH, generator=torch.Generator().manual_seed(3))
    original.state[key] = torch.cat([original.state[key], vector])
    with pytest.raises(ModelError, match=r"a learned token of 1 vectors, and not its name. Pass learned_token="):
        convert(original, base, tmp_path)
    model, report = convert(original, base, tmp_path, learned_token="<toy>")
    assert "<toy> is a word of the model, of 1 vectors" in report.notes
    encoder = model.backbone.text_encoder
    assert encoder is not None
    assert encoder("a <toy>").words[0][1].text == "<toy>"
    assert torch.equal(encoder.model.get_input_embeddings().weight[-1], vector[0])
    without = convert_file(tmp_path / "file.pth", tmp_path / "b", base_model=base, learned_token="", **original.options)
    assert "a learned token of 1 vectors was left out, as asked" in without.notes


def test_safetensors_are_read_too(base, tmp_path):
    original = original_of("vpd depth", base)
    save_file(original.state, tmp_path / "file.safetensors")
    convert_file(tmp_path / "file.safetensors", tmp_path / "made", base_model=base)
    made = TADPForDepthEstimation.from_pretrained(tmp_path / "made")
    assert torch.equal(output_of(made, images(1, 64, 64)), output_of(original.model, images(1, 64, 64)))


def test_half_precision_becomes_single_and_a_rounded_vae_is_the_bases(base, tmp_path):
    original = original_of("vpd depth", base)
    original.state = {
        key: value.half() if value.is_floating_point() else value for key, value in original.state.items()
    }
    model, _ = convert(original, base, tmp_path)
    assert model.backbone.dtype == torch.float32
    assert torch.equal(model.backbone.unet.conv_in.weight, original.model.backbone.unet.conv_in.weight.half().float())


def test_names_of_torchvision_before_0_13_are_read(base, tmp_path):
    original = original_of("tadp detection", base)
    old = {}
    for key, value in original.state.items():
        if key.startswith("fpn."):
            key = key.replace(".0.weight", ".weight").replace(".0.bias", ".bias")
        old[key.replace("rpn.head.conv.0.0.", "rpn.head.conv.")] = value
    assert {"fpn.inner_blocks.0.weight", "decode_head.rpn.head.conv.bias"} <= old.keys()
    new, _ = convert(original, base, tmp_path)
    original.state = old
    convert_file(original.save(tmp_path / "old.pth"), tmp_path / "old", base_model=base, **original.options)
    assert all(
        torch.equal(value, new.head.state_dict()[key])
        for key, value in load_file(tmp_path / "old" / "model.safetensors").items()
    )


# What is refused


@pytest.mark.parametrize("form", FORMS)
def test_unknown_tensors_are_named(form, base, tmp_path):
    original = original_of(form, base)
    prefix = "module." * (form == "tadp depth")
    original.state[f"{prefix}decode_head.mystery.weight"] = torch.zeros(2)
    with pytest.raises(ModelError, match=r"1 unknown: decode_head\.mystery\.weight\. What is not needed"):
        convert(original, base, tmp_path)
    assert not (tmp_path / "made").exists()


def test_unknown_tensors_may_be_left_out_on_request(base, tmp_path):
    original = original_of("vpd depth", base)
    original.state |= {"mystery.weight": torch.zeros(2), "mystery.bias": torch.zeros(2)}
    _, report = convert(original, base, tmp_path, allow_unused=["mystery.*"])
    assert [part.tensors for part in report.parts if part.name == "allowed: mystery.*"] == [2]


@pytest.mark.parametrize(
    ("form", "keys"),
    [
        (
            "vpd depth",
            (
                "encoder.unet.unet.diffusion_model.middle_block.1.proj_in.bias",
                "encoder.layer1.3.bias",
                "encoder.gamma",
                "encoder.encoder_vq.quant_conv.bias",
            ),
        ),
        (
            "tadp segmentation",
            (
                "neck.fpn_convs.2.conv.bias",
                "decode_head.scale_heads.3.2.bn.running_var",
                "sd_model.cond_stage_model.transformer.text_model.final_layer_norm.bias",
            ),
        ),
        ("tadp detection", ("decode_head.roi_heads.box_head.fc7.bias",)),
        ("mmseg depth", ("decode_head.depth_pred_layer.2.bias",)),
    ],
)
def test_missing_tensors_are_named(form, keys, base, tmp_path):
    original = original_of(form, base)
    for key in keys:
        del original.state[key]
    with pytest.raises(ModelError, match=rf"{len(keys)} missing: ") as caught:
        convert(original, base, tmp_path)
    assert all(key in str(caught.value) for key in keys)


def test_a_missing_tensor_that_tells_a_size_is_named(base, tmp_path):
    original = original_of("tadp segmentation", base)
    del original.state["decode_head.conv_seg.weight"]
    with pytest.raises(ModelError, match=r"1 missing: decode_head\.conv_seg\.weight, which tells a size of the head"):
        convert(original, base, tmp_path)


def test_files_without_their_frozen_parts_take_them_from_the_base(base, tmp_path):
    """The VAE's place told how latents were scaled; without it that is as released, or as asked."""
    original = original_of("tadp segmentation", base)
    original.state = {key: value for key, value in original.state.items() if not key.startswith("sd_model.")}
    model, report = convert(original, base, tmp_path)
    assert torch.equal(output_of(model, images(1, 64, 64)), output_of(original.model, images(1, 64, 64)))
    assert {part.name for part in report.parts} == {"U-Net", "head", "meta", "optimizer"}
    told = convert_file(tmp_path / "file.pth", tmp_path / "other", base_model=base, scale_latents=False)
    assert (report.options["scale_latents"], told.options["scale_latents"]) == (True, False)


def test_a_tensor_of_another_shape_is_named(base, tmp_path):
    original = original_of("vpd depth", base)
    original.state["encoder.layer2.0.bias"] = torch.zeros(3)
    with pytest.raises(ModelError, match=r"1 of another shape: encoder\.layer2\.0\.bias \(\(3,\) for \(16,\)\)"):
        convert(original, base, tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(value, base, tmp_path):
    original = original_of("tadp segmentation", base)
    key = "unet.unet.diffusion_model.time_embed.0.bias"
    original.state[key] = original.state[key].clone()
    original.state[key][3] = value
    with pytest.raises(ModelError, match=r"1 not finite: unet\.unet\.diffusion_model\.time_embed\.0\.bias"):
        convert(original, base, tmp_path)


def test_a_second_copy_that_differs_is_named(base, tmp_path):
    original = original_of("tadp depth", base)
    key = "encoder.sd_model.model.diffusion_model.time_embed.0.bias"
    original.state[f"module.{key}"] = original.state[f"module.{key}"] + 1
    with pytest.raises(ModelError, match=rf"1 different from its copy in encoder\.unet\.unet\..*: {key}"):
        convert(original, base, tmp_path)


@pytest.mark.parametrize(
    "key",
    [
        "sd_model.first_stage_model.quant_conv.bias",
        "sd_model.cond_stage_model.transformer.text_model.final_layer_norm.bias",
    ],
)
def test_another_vae_or_text_encoder_than_the_bases_is_named(key, base, tmp_path):
    original = original_of("tadp segmentation", base)
    original.state[key] = original.state[key] + 0.1
    with pytest.raises(ModelError, match=rf"1 other weights than in .*: {key}.* Pass as base_model="):
        convert(original, base, tmp_path)
    _, report = convert(original, base, tmp_path, ignore_frozen=True)
    assert any(part.fate == f"dropped: 1 differ from {base}, whose are used" for part in report.parts)


def test_training_state_beside_the_weights_is_known_and_other_things_are_not(base, tmp_path):
    original = original_of("vpd depth", base)
    original.wrap = lambda state: {"model": state, "epoch": 25, "surprise": [1]}
    with pytest.raises(ModelError, match=r"1 unknown: surprise \(beside the weights\)"):
        convert(original, base, tmp_path)


@pytest.mark.parametrize(
    ("names", "message"),
    [(["sky", "tree"], r"has 3 classes; got 2 names, sky, tree …"), (None, r"has 3 classes and does not name them")],
)
def test_class_names_must_be_as_many_as_the_heads_outputs(names, message, base, tmp_path):
    original = original_of("tadp segmentation", base)
    original.wrap = lambda state: {"state_dict": state}
    with pytest.raises(ModelError, match=message):
        convert(original, base, tmp_path, class_names=names)


def test_options_that_do_not_fit_the_file_are_refused(base, tmp_path):
    path = original_of("vpd depth", base).save(tmp_path / "depth.pth")
    with pytest.raises(ModelError, match=r"is a depth file, not detection"):
        convert_file(path, tmp_path / "made", base_model=base, task="detection")
    with pytest.raises(ModelError, match=r"a depth model has no classes"):
        convert_file(path, tmp_path / "made", base_model=base, class_names=CLASSES)
    path = original_of("tadp segmentation", base).save(tmp_path / "segmentation.pth")
    with pytest.raises(ModelError, match=r"room is for depth models with class embeddings"):
        convert_file(path, tmp_path / "made", base_model=base, room="kitchen")


def test_joined_text_and_other_bases_are_refused(base, tmp_path):
    original = original_of("tadp segmentation", base)
    for level in (1, 2):
        key = f"neck.lateral_convs.{level}.conv.weight"
        original.state[key] = torch.cat([original.state[key], torch.zeros(8, 3, 1, 1)], dim=1)
    with pytest.raises(ModelError, match=r"the head takes the attention of 80 tokens, a caption of .* has 77"):
        convert(original, base, tmp_path)
    original.state["neck.lateral_convs.1.conv.weight"] = torch.zeros(8, 20, 1, 1)
    with pytest.raises(ModelError, match=r"the rest is not one number of tokens. Pass base_model="):
        convert(original, base, tmp_path)


def test_files_of_another_kind_say_what_they_are(base, tmp_path):
    unet = build_backbone().unet
    plain = originals.write_unet(unet, "model.diffusion_model.")
    pascal = originals.write_unet(unet, "model.unet.diffusion_model.") | {
        "decode_head.decoder.p5.weight": torch.zeros(1)
    }
    odd = originals.write_unet(unet, "net.diffusion_model.")
    for content, message in (
        ({"state_dict": plain}, r"a whole Stable Diffusion checkpoint without a head"),
        ({"unet.down_blocks.0.attn.to_q.lora_A.weight": torch.zeros(1)}, r"it is a LoRA"),
        (dict(unet.state_dict()), r"it is a U-Net in diffusers' layout"),
        (pascal, r"the paper's Pascal segmentation, whose decoder is segmentation_models_pytorch's"),
        (odd, r"its U-Net stands under net\., where none of them has it"),
        ({"weight": torch.zeros(1)}, r"it has no U-Net of LDM; its 1 tensors begin with weight"),
        ({"weight": "no"}, r"holds 1 things besides tensors .*, such as 'weight'"),
        ([torch.zeros(1)], r"holds a list, not tensors by name"),
    ):
        torch.save(content, tmp_path / "odd.pth")
        with pytest.raises(ModelError, match=message):
            convert_file(tmp_path / "odd.pth", tmp_path / "made", base_model=base)
    with pytest.raises(MissingFileError, match=r"no such file: .*nothing\.pth"):
        convert_file(tmp_path / "nothing.pth", tmp_path / "made", base_model=base)


def test_a_folder_that_holds_something_is_left_alone(base, tmp_path):
    path = original_of("vpd depth", base).save(tmp_path / "depth.pth")
    with pytest.raises(OutputError, match=r"is not empty; choose another folder"):
        convert_file(path, tmp_path, base_model=base)
    (tmp_path / "cut.pth").write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CorruptFileError, match=r"cut\.pth is damaged"):
        convert_file(tmp_path / "cut.pth", tmp_path / "made", base_model=base)
