"""Files in the forms of the paper's release, VPD and mmseg's VPD are converted to our models."""

from pathlib import Path
from typing import Any

import originals
import pytest
import torch
from builders import WIDTH, build_backbone, build_folder, images, relative_error
from golden import GOLDEN, TOLERANCE, expected_map, golden
from release_files import (
    CLASSES,
    FORMS,
    Original,
    backbone_of,
    convert,
    mmcv_meta,
    original_of,
    output_of,
    segmentation_model,
)
from safetensors.torch import load_file, save_file

from tadp import Conditioning, TADPBackbone
from tadp.convert import convert_file
from tadp.convert.text_weights import room_embeddings
from tadp.diffusion.loading.networks import load_unet, load_vae
from tadp.errors import CorruptFileError, MissingFileError, ModelError, OutputError
from tadp.files.run_lock import FOLDER_LOCK, only_run
from tadp.language.class_names import NYU_ROOMS
from tadp.tasks import TADPForDepthEstimation


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return build_folder(tmp_path_factory.mktemp("base"))


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
    assert tensors == len(original.state) + (form in ("tadp depth", "tadp pascal"))  # plus one of the training


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
        ("tadp pascal", {"scale_latents": True, "imagenet_pixels": False, "text_adapter": False, "classes": 21}),
        ("vpd pascal", {"scale_latents": False, "attach_attention": (1, 2), "text_adapter": True}),
    ],
)
def test_how_a_file_was_trained_is_in_the_report_and_the_config(form, expected, base, tmp_path):
    model, report = convert(original_of(form, base), base, tmp_path)
    assert not getattr(model, "keep_ratio", False)  # a detection model was trained on stretched images
    assert report.options.items() >= (expected | {"timestep": 1}).items()
    written = model.backbone.options.to_dict()
    assert written["timestep"] == 1
    assert written["scale_latents"] == report.options["scale_latents"]
    text = str(report)
    assert all(part.name in text and str(part.tensors) in text for part in report.parts)


def test_what_is_dropped_is_said_with_its_reason(base, tmp_path):
    _, report = convert(original_of("tadp depth", base), base, tmp_path)
    fates = {part.name: part.fate for part in report.parts}
    assert fates["second U-Net"] == "dropped: an identical copy of encoder.unet.unet.diffusion_model.*"
    assert fates["second VAE"] == "dropped: an identical copy of encoder.encoder_vq.*"
    assert fates["VAE encoder"] == fates["text encoder"] == f"dropped: frozen, the same as in {base}"
    assert fates["VAE decoder"] == "dropped: perception never decodes"
    assert fates["optimizer"] == "dropped: training state"
    assert fates["class embeddings"] == "dropped: the text was captions"
    assert "latents are the posterior's mode; the released code samples them when it scales them" in report.notes


@pytest.mark.parametrize("case", ["t1.unscaled.default", "t1.scaled.default"])
def test_golden_weights_in_the_originals_names_give_the_golden_features(case, tmp_path):
    """The features equal the paper's released extractor's for the first image, with its text as class embeddings."""
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
    converted, _ = convert(Original(model, state), tmp_path / "base", tmp_path, class_names=CLASSES)
    assert converted.backbone.scale_latents == scaled
    with torch.no_grad():
        features = converted.features(golden("inputs")["image"][:1].double() / 255)
    for level, level_map in enumerate(features.maps):
        assert relative_error(level_map, expected_map(case, level)[:1]) < TOLERANCE


def build_like(unet: Any) -> Any:
    """Build the same U-Net untrained; a conversion must replace its weights."""
    return type(unet).from_config(dict(unet.config)).eval()


def test_what_a_pascal_file_has_besides_its_model_is_said(base, tmp_path):
    model, report = convert(original_of("tadp pascal", base), base, tmp_path)
    fates = {part.name: (part.tensors, part.fate) for part in report.parts}
    assert fates["reduce_embeds"] == (2, "dropped: built, and never run")
    assert fates["text adapter"] == (3, "dropped: the model did not use it")
    assert fates["class embeddings"] == (1, "dropped: the text was captions")
    assert fates["callbacks"] == (1, "dropped: training state")
    assert (model.class_names[1], model.options["head"], model.options["loss"]) == ("airplane", "smp_fpn", "focal")


# Options


def test_a_room_may_be_chosen(base, tmp_path):
    original = original_of("vpd depth", base)
    model, report = convert(original, base, tmp_path, room="kitchen")
    assert model.stored_text is not None
    assert torch.equal(model.stored_text.embeddings[0, 0], original.state["encoder.class_embeddings"][6])
    assert "text: the embedding of kitchen" in report.notes
    other = Conditioning(original.state["encoder.class_embeddings"][None, 8:9])
    assert model.predict(images(1, 64, 64), other).depth_m.shape == (64, 64)
    with pytest.raises(ModelError, match=r"room must be one of printer_room, .*; got 'attic'"):
        convert_file(tmp_path / "file.pth", tmp_path / "other", base_model=base, room="attic")


@pytest.mark.parametrize("form", ["vpd depth", "mmseg depth"])
def test_all_rooms_are_kept_and_chosen_by_name(form, base, tmp_path):
    original = original_of(form, base)
    key = "encoder.class_embeddings" if form == "vpd depth" else "backbone.class_embeddings"
    model, report = convert(original, base, tmp_path)
    assert model.prompt_classes == (*NYU_ROOMS, "any_room")
    assert model.stored_text is not None
    assert torch.equal(model.stored_text.embeddings[0, :27], original.state[key][:27])
    assert "text: the embedding of each image's room; without a room, any_room, the mean of the embeddings" in (
        report.notes
    )
    pixels, rooms = images(2, 64, 96), ["kitchen", "bookstore"]
    with torch.no_grad():
        depth_m = model(pixels, rooms).depth_m
        for number, room in enumerate(rooms):
            own = Conditioning(original.state[key][NYU_ROOMS.index(room)][None, None])
            expected = original.model(pixels[number : number + 1], own).depth_m[0]
            torch.testing.assert_close(depth_m[number], expected, rtol=1e-5, atol=1e-6)
        mean = Conditioning(original.state[key][:27].mean(dim=0)[None, None])
        torch.testing.assert_close(model(pixels).depth_m, original.model(pixels, mean).depth_m, rtol=1e-5, atol=1e-6)
    assert model.predict(pixels[:1]).caption == "any_room"


def test_a_file_with_another_number_of_rooms_has_only_their_mean():
    kept, names = room_embeddings(torch.tensor([[1.0], [3.0]]), None)
    assert (kept.tolist(), names) == ([[2.0]], ())


def test_a_depth_file_does_not_tell_its_scale_and_may_be_told(base, tmp_path):
    model, _ = convert(original_of("tadp depth", base), base, tmp_path, scale_latents=False)
    assert model.backbone.scale_latents is False


def test_a_segmentation_file_tells_its_scale(base, tmp_path):
    with pytest.raises(ModelError, match=r"show that it was trained with scale_latents=True; leave"):
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
    converted, report = convert(Original(model, state | originals.write_mmcv_head(model.head)), base, tmp_path)
    assert converted.class_names[:2] == ("road", "sidewalk")
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
    with pytest.raises(
        ModelError, match=r"a learned token of 1 vectors, but not its name. Pass its name, such as learned_token="
    ):
        convert(original, base, tmp_path)
    model, report = convert(original, base, tmp_path, learned_token="<toy>")
    assert "the model has the learned token <toy> of 1 vectors" in report.notes
    encoder = model.backbone.text_encoder
    assert encoder is not None
    assert encoder("a <toy>").words[0][1].text == "<toy>"
    assert torch.equal(encoder.model.get_input_embeddings().weight[-1], vector[0])
    without = convert_file(tmp_path / "file.pth", tmp_path / "b", base_model=base, learned_token="", **original.options)
    assert "a learned token of 1 vectors was left out, as requested" in without.notes


def test_safetensors_are_read_too(base, tmp_path):
    original = original_of("vpd depth", base)
    save_file(original.state, tmp_path / "file.safetensors")
    convert_file(tmp_path / "file.safetensors", tmp_path / "made", base_model=base)
    converted = TADPForDepthEstimation.from_pretrained(tmp_path / "made")
    assert torch.equal(output_of(converted, images(1, 64, 64)), output_of(original.model, images(1, 64, 64)))


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
    with pytest.raises(ModelError, match=r"1 unknown: decode_head\.mystery\.weight\. If the model does not need them"):
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
        ("vpd pascal", ("decode_head.decoder.seg_blocks.0.block.2.block.1.bias", "gamma")),
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
    with pytest.raises(
        ModelError, match=r"1 missing: decode_head\.conv_seg\.weight, which determines a size of the head"
    ):
        convert(original, base, tmp_path)


def test_files_without_their_frozen_parts_take_them_from_the_base(base, tmp_path):
    """The place of the VAE shows how latents were scaled. Without it, the releases' default or the option decides."""
    original = original_of("tadp segmentation", base)
    original.state = {key: value for key, value in original.state.items() if not key.startswith("sd_model.")}
    model, report = convert(original, base, tmp_path)
    assert torch.equal(output_of(model, images(1, 64, 64)), output_of(original.model, images(1, 64, 64)))
    assert {part.name for part in report.parts} == {"U-Net", "head", "meta", "optimizer"}
    unscaled = convert_file(tmp_path / "file.pth", tmp_path / "other", base_model=base, scale_latents=False)
    assert (report.options["scale_latents"], unscaled.options["scale_latents"]) == (True, False)


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
    with pytest.raises(ModelError, match=rf"1 unlike those in .*: {key}.* trained on as base_model="):
        convert(original, base, tmp_path)
    _, report = convert(original, base, tmp_path, ignore_frozen=True)
    assert any(part.fate == f"dropped: 1 differ from {base}, whose weights are used" for part in report.parts)


def test_training_state_beside_the_weights_is_known_and_other_things_are_not(base, tmp_path):
    original = original_of("vpd depth", base)
    original.wrap = lambda state: {"model": state, "epoch": 25, "surprise": [1]}
    with pytest.raises(ModelError, match=r"1 unknown: surprise \(next to the weights\)"):
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
    with pytest.raises(ModelError, match=r"the head takes the attention of 80 tokens, but a caption of .* has 77"):
        convert(original, base, tmp_path)
    original.state["neck.lateral_convs.1.conv.weight"] = torch.zeros(8, 20, 1, 1)
    with pytest.raises(
        ModelError, match=r"the difference is not the same number of tokens everywhere. Pass base_model="
    ):
        convert(original, base, tmp_path)


def test_files_of_another_kind_say_what_they_are(base, tmp_path):
    unet = build_backbone().unet
    plain = originals.write_unet(unet, "model.diffusion_model.")
    odd = originals.write_unet(unet, "net.diffusion_model.")
    for content, message in (
        ({"state_dict": plain}, r"a whole Stable Diffusion checkpoint without a head"),
        ({"unet.down_blocks.0.attn.to_q.lora_A.weight": torch.zeros(1)}, r"it is a LoRA"),
        (dict(unet.state_dict()), r"it is a U-Net in diffusers' layout"),
        (odd, r"its U-Net is under net\., which none of them uses"),
        ({"weight": torch.zeros(1)}, r"it has no U-Net under LDM's names; its 1 tensors begin with weight"),
        ({"weight": "no"}, r"holds 1 values other than tensors .*, such as 'weight'"),
        ([torch.zeros(1)], r"holds a list, not tensors by name"),
    ):
        torch.save(content, tmp_path / "odd.pth")
        with pytest.raises(ModelError, match=message):
            convert_file(tmp_path / "odd.pth", tmp_path / "made", base_model=base)
    with pytest.raises(MissingFileError, match=r"no such file: .*nothing\.pth"):
        convert_file(tmp_path / "nothing.pth", tmp_path / "made", base_model=base)


def test_a_name_that_is_not_utf8_is_reported_and_the_lock_of_a_killed_run_is_removed(base, tmp_path):
    path = original_of("vpd depth", base).save(tmp_path / "depth.pth")
    with pytest.raises(OutputError, match=r"the name .* is not UTF-8"):
        convert_file(path, tmp_path / "caf\udce9", base_model=base)
    odd = path.rename(tmp_path / "caf\udce9.pth")
    with pytest.raises(CorruptFileError, match=r"the name .*\.pth is not UTF-8"):
        convert_file(odd, tmp_path / "out", base_model=base)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / FOLDER_LOCK).touch()
    convert_file(odd.rename(path), tmp_path / "out", base_model=base)
    assert not (tmp_path / "out" / FOLDER_LOCK).exists()


def test_a_folder_that_holds_something_is_left_alone(base, tmp_path):
    path = original_of("vpd depth", base).save(tmp_path / "depth.pth")
    with pytest.raises(OutputError, match=r"is not empty; choose another folder"):
        convert_file(path, tmp_path, base_model=base)
    with (
        only_run(tmp_path / "busy", is_folder=True),
        pytest.raises(OutputError, match=r"another run is writing .*busy"),
    ):
        convert_file(path, tmp_path / "busy", base_model=base)
    (tmp_path / "cut.pth").write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CorruptFileError, match=r"cut\.pth is damaged"):
        convert_file(tmp_path / "cut.pth", tmp_path / "made", base_model=base)
