"""The task models: losses, predictions of any size, text, and how they are saved."""

import copy
import dataclasses
import io
import json
import pickle
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from builders import build_backbone, images
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file, save_file

import tadp
from tadp.assets import tiny_folder
from tadp.datasets import PadTo, RenderedScenes, Resize, Sample
from tadp.datasets.scenes import CLASSES as SCENE_CLASSES
from tadp.datasets.scenes import Scenes
from tadp.errors import CaptionError, CorruptFileError, MissingFileError, ModelError, OutputError, UnknownModelError
from tadp.features import FeatureInfo, Features
from tadp.images import to_tensor
from tadp.images.boxes import Boxes, Detections
from tadp.tasks import (
    SegmentationResult,
    TADPForDepthEstimation,
    TADPForObjectDetection,
    TADPForSemanticSegmentation,
    evaluate,
)

CLASSES = ["background", "dog", "red cat"]
CAPTION = "a dog on grass"


def segmenter(backbone=None, **options):
    torch.manual_seed(0)
    options = {"class_names": CLASSES, "window_px": 64} | options
    return TADPForSemanticSegmentation(backbone or build_backbone(), **options).eval()


def depther(backbone=None, **options):
    torch.manual_seed(0)
    options = {"max_depth_m": 20.0, "window_px": 64} | options
    model = TADPForDepthEstimation(backbone or build_backbone(), **options).eval()
    with torch.no_grad():  # a new head predicts the same depth everywhere
        for name, parameter in model.head.named_parameters():
            if parameter.ndim > 1 and not name.startswith(("layer", "out_layer")):
                parameter.normal_(std=(2 / parameter[0].numel()) ** 0.5)
    return model


def detector(backbone=None, **options):
    torch.manual_seed(0)
    options = {"class_names": CLASSES[1:], "image_px": 64} | options
    return TADPForObjectDetection(backbone or build_backbone(), **options).eval()


MAKERS = {"segmentation": segmenter, "depth": depther, "detection": detector}
each_task = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def target(model, count=2, size=64):
    """Labels for a batch, of the kind that the model takes."""
    noise = torch.Generator().manual_seed(3)
    if isinstance(model, TADPForSemanticSegmentation):
        return torch.randint(0, 3, (count, size, size), generator=noise)
    if isinstance(model, TADPForDepthEstimation):
        return 1 + 10 * torch.rand(count, size, size, generator=noise)
    return [Boxes(torch.tensor([[4.0, 4.0, 40.0, 50.0]]), torch.tensor([k % 2])) for k in range(count)]


def values(result):
    """The tensors of a result, as a tuple."""
    if hasattr(result, "class_map"):
        return result.class_map, result.scores
    return (result.depth_m,) if hasattr(result, "depth_m") else (result.boxes, result.labels, result.scores)


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(values(first), values(second), strict=True))


def raw(model, batch, text=CAPTION):
    """The plain output of a pass."""
    output = model(batch, text)
    if hasattr(output, "logits"):
        return output.logits
    return output.depth_m if hasattr(output, "depth_m") else output.detections[0].boxes


# One pass


def test_segmentation_is_a_class_a_pixel_at_the_images_size():
    model, masks = segmenter(), torch.randint(0, 3, (2, 33, 50))
    output = model(images(2, 33, 50), CAPTION, masks)
    assert output.logits.shape == (2, 3, 33, 50)
    torch.testing.assert_close(output.loss, F.cross_entropy(output.logits, masks))


def test_depth_is_metres_up_to_the_greatest():
    output = depther()(images(2, 33, 50), CAPTION, torch.full((2, 33, 50), 5.0))
    assert output.depth_m.shape == (2, 33, 50)
    assert output.depth_m.min() > 0
    assert output.depth_m.max() < 20
    assert output.loss > 0


def test_detection_is_losses_with_boxes_and_detections_without():
    model = detector()
    output = model(images(2, 64, 64), CAPTION, target(model))
    assert output.loss == sum(output.losses.values())
    assert output.detections == []
    output = model(images(2, 64, 64), CAPTION)
    assert output.loss is None
    assert len(output.detections) == 2


@each_task
def test_the_head_and_the_unet_learn_and_the_rest_does_not(make):
    model = make(tune="all").train()
    model(images(2, 64, 64), CAPTION, target(model)).loss.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.head.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.backbone.unet.parameters())
    assert all(p.grad is None for p in model.backbone.vae.parameters())
    assert all(p.grad is None for p in model.backbone.text_encoder.parameters())


@each_task
def test_nothing_tuned_leaves_the_head_alone_to_learn(make):
    model = make(tune="nothing")
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"head"}


@each_task
def test_cached_latents_give_what_the_images_give(make):
    model = make()
    batch = images(2, 40, 56)
    latents = model.backbone.encode_image(batch)
    cached = model.features(None, CAPTION, latents=latents, image_size=(40, 56))
    for cached_map, expected_map in zip(cached.maps, model.features(batch, CAPTION).maps, strict=True):
        assert torch.equal(cached_map, expected_map)
    assert cached.image_size == (40, 56)


def test_a_pass_needs_images_or_latents():
    with pytest.raises(ValueError, match="pass images, or latents"):
        segmenter()(None, CAPTION)


@each_task
def test_parameter_groups_have_the_unet_at_a_tenth_and_no_decay_on_norms(make):
    model = make(tune="all")
    groups = model.parameter_groups(1e-3, unet_scale=0.1, weight_decay=0.01)
    grouped = [p for group in groups for p in group["params"]]
    assert len(set(map(id, grouped))) == len(grouped)
    assert set(map(id, grouped)) == {id(p) for p in model.parameters() if p.requires_grad}
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert {rates[id(p)] for p in model.head.parameters()} == {1e-3}
    unet_rates = {rates[id(p)] for p in model.backbone.unet.parameters() if p.requires_grad}
    assert [*unet_rates] == [pytest.approx(1e-4)]
    for group in groups:
        assert all((p.ndim > 1) == (group["weight_decay"] > 0) for p in group["params"])


def test_a_frozen_half_precision_backbone_serves_a_head_in_single_precision():
    model = segmenter(tune="nothing")
    model.backbone.to(torch.bfloat16)
    output = model(images(1, 64, 64), CAPTION, target(model, 1))
    assert output.logits.dtype == torch.float32
    output.loss.backward()


@each_task
def test_a_whole_model_in_half_precision_predicts(make):
    model = make().to(torch.bfloat16)
    assert all(tensor.isfinite().all() for tensor in values(model.predict(images(1, 64, 64), CAPTION)))


# Text


@pytest.mark.parametrize("mode", ["class_names", "class_embeddings", "averaged_eos", "null"])
def test_a_mode_of_one_text_for_all_needs_no_caption(mode, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ASSETS_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_ASSETS_CACHE", str(tmp_path))
    lengths = {"averaged_eos": 2, "class_embeddings": 3}
    model = segmenter(build_backbone(text_length=lengths.get(mode)), prompt_mode=mode)
    texts = {
        "class_names": tadp.prompts.class_names(CLASSES[1:]),
        "null": "",
        "averaged_eos": tadp.prompts.averaged_eos(CLASSES[1:], model.backbone),
        "class_embeddings": tadp.prompts.class_embeddings(CLASSES[1:], model.backbone),
    }
    batch = images(1, 64, 64)
    assert torch.equal(model(batch).logits, model(batch, texts[mode]).logits)
    assert model.predict(batch).caption is None
    with pytest.raises(CaptionError, match="the same for all images; leave caption out"):
        model.predict(batch, CAPTION)


def test_a_text_of_another_length_than_the_backbone_counts_is_refused_with_the_number():
    with pytest.raises(ModelError, match=r"2 embeddings for these classes, but the backbone expects 77.*text_length=2"):
        segmenter(prompt_mode="averaged_eos")


def test_a_mode_without_its_classes_is_refused():
    with pytest.raises(ValueError, match="'class_names' needs class names; pass them as prompt_classes="):
        depther(prompt_mode="class_names")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_mode": "blip"}, "prompt_mode must be one of captions, class_names.*got 'blip'"),
        ({"tune": "unet"}, "tune must be one of all, lora, nothing; got 'unet'"),
        ({"head": "mlp"}, "head must be 'fpn', 'smp_fpn' or 'linear'; got 'mlp'"),
        ({"loss": "dice"}, "loss must be 'cross_entropy' or 'focal'; got 'dice'"),
    ],
)
def test_an_unknown_option_is_refused(no_type_checker, options, message):
    with pytest.raises(ValueError, match=message):
        segmenter(**options)


@pytest.mark.parametrize("make", [segmenter, detector])
@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        ("ball", TypeError, "got the string 'ball'"),
        (["a", "a"], ValueError, "class names must be unique; 'a' is class 0 and 1"),
        (["a", "b\udcff"], ValueError, r"class 1 \('b\\udcff'\) cannot be written as UTF-8"),
        ([], ValueError, "no cl"),
    ],
)
def test_class_names_are_a_list_of_different_names(make, names, error, message):
    with pytest.raises(error, match=message):
        make(class_names=names)


def test_masks_are_compared_with_the_images(no_type_checker):
    model = segmenter()
    with pytest.raises(ValueError, match=r"at the images' size; got \(1, 32, 32\) for 1 images of \(64, 64\)"):
        model(images(1, 64, 64), CAPTION, torch.zeros(1, 32, 32, dtype=torch.int64))
    message = r"masks must hold class indices, which are integers; got torch.float32. Pass masks.long\(\)"
    with pytest.raises(TypeError, match=message):
        model(images(1, 64, 64), CAPTION, torch.zeros(1, 64, 64))


def test_outputs_do_not_print_their_tensors():
    model = segmenter()
    assert repr(model(images(1, 64, 64), CAPTION)) == "SegmentationOutput(logits (1, 3, 64, 64), loss=None)"
    assert len(repr(detector()(images(2, 64, 64), CAPTION, target(detector())))) < 100


def test_a_detection_picture_says_when_nothing_is_sure_enough():
    result = detector().predict(images(1, 64, 64), CAPTION)
    assert result.plot(score=1.0).height == result.plot(score=0.0).height + 34


def test_evaluation_takes_its_captions_from_the_data_or_the_captioner():
    model = segmenter(tadp.TADPBackbone.from_pretrained("tadp-tiny"), class_names=["background", *SCENE_CLASSES])
    model.attach_captioner("tadp-tiny")
    used = []
    for captions in ("data", "captioner"):
        evaluate(
            model, RenderedScenes(1, seed=5), captions=captions, on_sample=lambda _, result: used.append(result.caption)
        )
    assert used[0] == RenderedScenes(1, seed=5)[0].caption
    assert used[1] == model.captioner(Scenes(1, seed=5)[0].image)[0]


def test_evaluation_shows_its_progress(capsys):
    model = segmenter(tadp.TADPBackbone.from_pretrained("tadp-tiny"), class_names=["background", *SCENE_CLASSES])
    scenes = RenderedScenes(2, seed=5)
    plain = str(evaluate(model, scenes))
    assert capsys.readouterr().err == ""
    assert str(evaluate(model, scenes, progress=True)) == plain
    assert "evaluating: 100%" in capsys.readouterr().err


def test_a_caption_reaches_the_prediction():
    model = segmenter()
    batch = images(1, 64, 64)
    first, second = (model.predict(batch, text, return_probabilities=True) for text in (CAPTION, "red cat photo"))
    assert first.caption == CAPTION
    assert not torch.equal(first.probabilities, second.probabilities)
    encoded = model.predict(batch, model.backbone.encode_text(CAPTION), return_probabilities=True)
    assert torch.equal(first.probabilities, encoded.probabilities)


@each_task
def test_a_caption_over_the_limit_is_cut_with_a_warning(make):
    model, long = make(), "dog " * 100
    batch = images(2, 64, 64)
    with pytest.warns(UserWarning, match="has 102 tokens, but the text encoder takes 77; the rest was cut"):
        result = model.predict(images(1, 64, 64), long)
    with pytest.warns(UserWarning, match="the rest was cut"):
        text = model.backbone.encode_text(long, truncate=True)
    assert same(result, model.predict(images(1, 64, 64), text))
    latents = model.backbone.encode_image(batch)
    for inputs in ({"images": batch}, {"images": None, "latents": latents}):
        with pytest.warns(UserWarning, match="caption 1 .* has 102 tokens"):
            model(inputs.pop("images"), ["a dog", long], target(model), **inputs).loss.backward()
    model.attach_captioner(lambda pixels: [long])  # a captioner's captions are cut in the same way
    with pytest.warns(UserWarning, match="the rest was cut"):
        assert same(result, model.predict(images(1, 64, 64)))


def test_without_caption_and_captioner_a_prediction_is_refused():
    with pytest.raises(CaptionError, match=r"pass caption=…, or call model.attach_captioner\('tadp-tiny'\)"):
        segmenter().predict(images(1, 64, 64))


def test_an_attached_captioner_describes_the_image_itself():
    model = segmenter(tadp.TADPBackbone.from_pretrained("tadp-tiny"), window_px=128)
    scene = Scenes(1, seed=5)[0]
    model.attach_captioner("tadp-tiny")
    result = model.predict(scene.image)
    assert result.caption == model.captioner(scene.image)[0]
    assert not any("captioner" in name for name in model.state_dict())


def test_the_captioner_is_the_backbones():
    model = segmenter()
    assert model.captioner is None
    model.backbone.attach_captioner(lambda pixels: ["a dog"] * len(pixels))
    batch = images(1, 64, 64)
    assert model.predict(batch).caption == "a dog"
    assert same(model.predict(batch), model.predict(batch, "a dog"))
    model.attach_captioner("tadp-tiny")
    assert model.captioner is model.backbone.captioner
    assert model.captioner_name == "tadp-tiny"
    assert model.predict(batch).caption == model.backbone.captioner(batch)[0]
    model.backbone.attach_captioner(None)
    with pytest.raises(CaptionError, match="this model needs a caption"):
        model.predict(batch)


@each_task
def test_an_image_is_decoded_once(make, tmp_path, monkeypatch):
    model, opened = make(), []
    model.attach_captioner("tadp-tiny")
    Image.fromarray(Scenes(1, seed=5)[0].image).save(tmp_path / "a.png")
    real = Image.open
    monkeypatch.setattr(Image, "open", lambda path, **options: opened.append(path) or real(path, **options))
    result = model.predict(tmp_path / "a.png")
    result.plot()
    assert len(opened) == 1
    assert torch.equal(tadp.images.to_tensor(result.image), tadp.images.to_tensor(tmp_path / "a.png"))


def test_alpha_and_16_bits_are_predicted_as_data_sets_read_them(tmp_path):
    model = segmenter()
    levels = np.random.default_rng(0).integers(0, 256, (64, 80, 4), np.uint8)
    for name, values in (("alpha", levels), ("grey", levels[..., 0].astype(np.uint16) * 250 + 9)):
        Image.fromarray(values).save(tmp_path / f"{name}.png")
        with Image.open(tmp_path / f"{name}.png") as picture:
            results = [model.predict(image, "a dog") for image in (tmp_path / f"{name}.png", picture)]
        results.append(model.predict(tadp.images.read_image(tmp_path / f"{name}.png"), "a dog"))
        assert all(torch.equal(result.scores, results[2].scores) for result in results)


@each_task
def test_a_model_makes_its_metric_and_scores_a_result(make):
    scenes = RenderedScenes(2, seed=9)
    names = scenes.box_class_names if make is detector else ["background", *SCENE_CLASSES]
    model = make(**({} if make is depther else {"class_names": names}))
    metric = model.make_metric()
    for sample in scenes:
        model.score(metric, model.predict(sample.image, sample.caption), sample)
    assert repr(metric.compute()) == repr(evaluate(model, scenes))
    bare = dataclasses.replace(scenes[0], mask=None, depth_m=None, boxes=None)
    with pytest.raises(ValueError, match=r"has no .*; evaluate on a data set that has it"):
        model.score(metric, model.predict(bare.image, bare.caption), bare)


def test_attaching_says_what_is_wrong():
    with pytest.raises(ModelError, match="does not know its captioner"):
        segmenter().attach_captioner()
    with pytest.raises(ModelError, match="text is 'null', the same for all images"):
        segmenter(prompt_mode="null").attach_captioner("tadp-tiny")


# Predictions


@each_task
@pytest.mark.parametrize("size", [(64, 64), (97, 201), (33, 50), (8, 9)])
def test_a_prediction_has_the_images_size(make, size):
    result = make().predict(images(1, *size)[0], CAPTION)
    if isinstance(result, tadp.tasks.DetectionResult):
        height, width = size
        assert (result.boxes >= 0).all()
        assert (result.boxes <= torch.tensor([width, height, width, height])).all()
    else:
        assert all(tensor.shape == size for tensor in values(result))
    assert result.plot().width >= 50


def test_an_image_of_one_window_is_the_plain_pass():
    model, batch = segmenter(), images(1, 64, 48)
    result = model.predict(batch, CAPTION, return_probabilities=True)
    logits = model(batch, CAPTION).logits[0]
    torch.testing.assert_close(result.probabilities, logits.softmax(0))
    assert torch.equal(result.class_map, logits.argmax(0))
    torch.testing.assert_close(result.scores, logits.softmax(0).max(0).values)
    depth_model = depther()
    torch.testing.assert_close(depth_model.predict(batch, CAPTION).depth_m, depth_model(batch, CAPTION).depth_m[0])


def test_windows_average_logits_as_the_sliding_test_does():
    model, batch = segmenter(), images(1, 64, 100)
    result = model.predict(batch, CAPTION, window_px=64, stride_px=36, return_probabilities=True)
    left, right = (model(batch[:, :, :, a : a + 64], CAPTION).logits[0] for a in (0, 36))
    total = torch.zeros(3, 64, 100)
    total[:, :, :64] += left
    total[:, :, 36:] += right
    total[:, :, 36:64] /= 2
    torch.testing.assert_close(result.probabilities, total.softmax(0))


def test_scales_and_flips_average_probabilities():
    model, batch = segmenter(), images(1, 64, 64)
    result = model.predict(batch, CAPTION, scales=(0.5, 1.0), flip=True, return_probabilities=True)
    expected = torch.zeros(3, 64, 64)
    small = F.interpolate(batch, size=(32, 32), mode="bilinear", antialias=True).clamp(0, 1)
    for view in (batch, small):
        for flipped in (False, True):
            logits = model(view.flip(3) if flipped else view, CAPTION).logits
            logits = F.interpolate(logits, size=(64, 64), mode="bilinear", align_corners=False)
            expected += (logits.flip(3) if flipped else logits).softmax(1)[0] / 4
    torch.testing.assert_close(result.probabilities, expected)


@pytest.mark.parametrize("head", ["fpn", "smp_fpn", "linear"])
def test_logits_are_enlarged_as_the_head_enlarges_them(head):
    model, batch = segmenter(head=head), images(1, 61, 45)  # the last cells reach over the edge
    result = model.predict(batch, CAPTION, return_probabilities=True)
    torch.testing.assert_close(result.probabilities, model(batch, CAPTION).logits[0].softmax(0))


def test_values_are_enlarged_by_the_stride_of_the_head(monkeypatch):
    """A head of one's own may have another stride than the backbone, such as 1 if it takes the pixels."""

    class OnPixels(torch.nn.Module):
        feature_info = FeatureInfo(channels=(3,), reduction=(1,))

        def __init__(self):
            super().__init__()
            self.classifier = torch.nn.Conv2d(3, 3, 1)

        def forward(self, features, *, image_size=None):
            return self.classifier(features.maps[0])

    model, batch = segmenter(), images(1, 61, 90)
    model.head = OnPixels()
    monkeypatch.setattr(
        TADPForSemanticSegmentation, "features", lambda _, pixels, text: Features((pixels,), None, pixels.shape[2:])
    )
    result = model.predict(batch, CAPTION, return_probabilities=True)
    torch.testing.assert_close(result.probabilities, model.head.classifier(batch)[0].softmax(0))


def test_focal_loss_makes_a_judgement_a_class():
    model, batch = segmenter(loss="focal"), images(1, 64, 64)
    result = model.predict(batch, CAPTION, return_probabilities=True)
    torch.testing.assert_close(result.probabilities, model(batch, CAPTION).logits[0].sigmoid())


def test_depth_of_a_mirrored_image_is_averaged():
    model, batch = depther(), images(1, 64, 64)
    mirrored = model(batch.flip(3), CAPTION).depth_m.flip(2)
    expected = (model(batch, CAPTION).depth_m + mirrored)[0] / 2
    torch.testing.assert_close(model.predict(batch, CAPTION, flip=True).depth_m, expected)


def test_windows_of_depth_are_tapered_or_averaged_as_released():
    model, batch = depther(taper_windows=False), images(1, 64, 100)
    left, right = (model(batch[:, :, :, a : a + 64], CAPTION).depth_m[0] for a in (0, 36))
    mean = torch.cat([left[:, :36], (left[:, 36:] + right[:, :28]) / 2, right[:, 28:]], dim=1)
    torch.testing.assert_close(model.predict(batch, CAPTION, stride_px=36).depth_m, mean)

    tapered = depther().predict(batch, CAPTION, stride_px=36).depth_m
    near_left = (27.5 - torch.arange(28)) / 28  # 28 pixels overlap, on which the weights fall and rise evenly
    blended = near_left * left[:, 36:] + (1 - near_left) * right[:, :28]
    torch.testing.assert_close(tapered, torch.cat([left[:, :36], blended, right[:, 28:]], dim=1))
    seam = {kind: (depth[:, 36] - depth[:, 35]).abs().mean() for kind, depth in (("mean", mean), ("tapered", tapered))}
    assert seam["tapered"] < seam["mean"] / 2


def test_a_depth_model_saved_before_windows_were_tapered_predicts_as_before(tmp_path):
    for taper in (False, True):
        depther(taper_windows=taper).save_pretrained(tmp_path / str(taper))
        assert TADPForDepthEstimation.from_pretrained(tmp_path / str(taper)).taper_windows is taper
    path = tmp_path / "True" / "config.json"
    config = json.loads(path.read_text())
    del config["options"]["taper_windows"]
    path.write_text(json.dumps(config))
    old, batch = TADPForDepthEstimation.from_pretrained(tmp_path / "True"), images(1, 64, 100)
    assert old.taper_windows is False
    assert same(old.predict(batch, CAPTION), depther(taper_windows=False).predict(batch, CAPTION))


def test_a_large_image_costs_no_more_than_a_window():
    model, sizes = segmenter(), []
    forward = model.backbone.unet.conv_in.forward
    model.backbone.unet.conv_in.forward = lambda latents: sizes.append(latents.shape) or forward(latents)
    model.predict(images(1, 300, 200), CAPTION)
    assert set(sizes) == {(1, 4, 8, 8)}


def test_boxes_come_back_in_the_images_pixels(monkeypatch):
    model, seen = detector(keep_ratio=False), []
    objects = Detections(torch.tensor([[16.0, 8.0, 48.0, 64.0]]), torch.tensor([1]), torch.tensor([0.9]))
    monkeypatch.setattr(model.head, "forward", lambda features: seen.append(features.image_size) or [objects])
    result = model.predict(images(1, 96, 256), CAPTION)
    assert seen == [(64, 64)]
    assert result.boxes.tolist() == [[64.0, 12.0, 192.0, 96.0]]
    assert result.names == ["red cat"]


@pytest.mark.parametrize(("height", "width"), [(96, 256), (50, 37), (64, 64), (9, 300)])
def test_a_padded_image_is_seen_as_in_training_and_its_boxes_come_back(height, width, monkeypatch):
    model, seen = detector(), []
    pixels = np.random.default_rng(3).integers(0, 255, (height, width, 3), dtype=np.uint8)
    truth = Boxes(torch.tensor([[0.0, 0.0, width / 2, height], [width / 4, 1.0, width, height / 2]]), torch.arange(2))
    sample = PadTo(64, fill="grey")(Resize(64, longest=64)(Sample(pixels, "a", boxes=truth)))
    objects = Detections(sample.boxes.boxes, truth.labels, torch.tensor([0.9, 0.8]))
    features = TADPForObjectDetection.features
    monkeypatch.setattr(
        TADPForObjectDetection, "features", lambda self, image, text: seen.append(image) or features(self, image, text)
    )
    monkeypatch.setattr(model.head, "forward", lambda features: [objects])
    result = model.predict(pixels, CAPTION)
    torch.testing.assert_close(seen[0], to_tensor(sample.image), rtol=0, atol=1.5 / 255)
    torch.testing.assert_close(result.boxes, truth.boxes)


def test_objects_in_the_padding_are_left_out_and_others_end_at_the_image(monkeypatch):
    model = detector()
    boxes = torch.tensor([[8.0, 20.0, 30.0, 60.0], [8.0, 40.0, 30.0, 60.0], [0.0, 32.0, 64.0, 64.0]])
    objects = Detections(boxes, torch.tensor([1, 0, 0]), torch.tensor([0.9, 0.8, 0.7]))
    monkeypatch.setattr(model.head, "forward", lambda features: [objects])
    result = model.predict(images(1, 64, 128), CAPTION)  # covers the upper half of the square
    assert result.boxes.tolist() == [[16.0, 40.0, 60.0, 64.0]]
    assert result.names == ["red cat"]
    assert result.scores.tolist() == pytest.approx([0.9])


@pytest.mark.parametrize("keep_ratio", [True, False])
def test_a_detector_from_before_it_kept_the_ratio_of_sides_still_stretches(keep_ratio, tmp_path):
    backbone = tadp.TADPBackbone.from_pretrained("tadp-tiny")
    small = {"channels": 8, "hidden_channels": 16}
    detector(backbone, head_options=small, tune="nothing", keep_ratio=keep_ratio).save_pretrained(tmp_path / "m")
    path = tmp_path / "m" / "config.json"
    assert TADPForObjectDetection.from_pretrained(tmp_path / "m").keep_ratio is keep_ratio
    config = json.loads(path.read_text())
    del config["options"]["keep_ratio"]
    path.write_text(json.dumps(config))
    assert TADPForObjectDetection.from_pretrained(tmp_path / "m").keep_ratio is False


@each_task
def test_predicting_leaves_the_model_as_it_was(make):
    model = make().train()
    model.head.eval()
    before = [module.training for module in model.modules()]
    model.predict(images(1, 64, 64), CAPTION)
    assert [module.training for module in model.modules()] == before


@pytest.mark.parametrize("scales", [(), (0.0,), (1.0, -1.0), (float("nan"),), (float("inf"),)])
def test_scales_that_are_none_are_refused(scales):
    with pytest.raises(ValueError, match="scales must be one or more numbers above 0"):
        segmenter().predict(images(1, 64, 64), CAPTION, scales=scales)


def test_a_scale_that_needs_too_much_memory_is_refused_at_once():
    with pytest.raises(ValueError, match=r"scales must enlarge an image to at most 89 megapixels; .* at scale 1000"):
        segmenter().predict(images(1, 64, 64), CAPTION, scales=(1000,))


PX_OPTIONS = [
    (make, name)
    for make, names in (
        (segmenter, ("window_px", "stride_px", "short_side_px")),
        (depther, ("window_px", "stride_px", "short_side_px")),
        (detector, ("image_px",)),
    )
    for name in names
]


@pytest.mark.parametrize(("make", "name"), PX_OPTIONS)
def test_sizes_that_are_no_pixels_are_refused(make, name, no_type_checker):
    calls = [lambda value: make().predict(images(1, 64, 64), CAPTION, **{name: value})]
    if name != "short_side_px":
        calls.append(lambda value: make(**{name: value}))
    for call in calls:
        for value in (0, -8):
            with pytest.raises(ValueError, match=f"{name} must be 1 pixel or more; got {value}"):
                call(value)
        for value in (64.0, True, "64"):
            with pytest.raises(TypeError, match=f"{name} must be a whole number of pixels; got {value!r}"):
                call(value)


@pytest.mark.parametrize("make", [segmenter, depther])
def test_windows_with_gaps_between_them_are_refused(make):
    with pytest.raises(ValueError, match=r"stride_px must be at most window_px, 64, .*got 65"):
        make(stride_px=65)
    with pytest.raises(ValueError, match=r"stride_px must be at most window_px, 64, .*got 65"):
        make().predict(images(1, 64, 64), CAPTION, stride_px=65)


@pytest.mark.parametrize(("make", "stride"), [(segmenter, 21), (depther, 10)])
def test_a_stride_goes_with_its_window(make, stride, monkeypatch):
    seen = []
    module = f"tadp.tasks.{'segmentation' if make is segmenter else 'depth'}.make_views"
    monkeypatch.setattr(module, lambda *_, **sizes: seen.append((sizes["window_px"], sizes["stride_px"])) or 1 / 0)
    for options in ({}, {"stride_px": 40}, {"window_px": 32}, {"window_px": 32, "stride_px": 5}):
        with pytest.raises(ZeroDivisionError):
            make(stride_px=50).predict(images(1, 64, 64), CAPTION, **options)
    assert seen == [(64, 50), (64, 40), (32, stride), (32, 5)]


def test_grey_padding_is_what_the_released_depth_code_does():
    model = depther(pad_with_grey=True)
    batch = images(1, 60, 60)
    padded = F.pad(batch, (0, 4, 0, 4), value=0.5)
    expected = model.head(model.backbone(padded, CAPTION))[:, :60, :60]
    assert torch.equal(model(batch, CAPTION).depth_m, expected)
    assert not torch.equal(depther()(batch, CAPTION).depth_m, expected)


def test_latents_of_grey_images_give_what_the_images_give():
    model, batch = depther(pad_with_grey=True), images(1, 60, 90)
    latents = model.backbone.encode_image(F.pad(batch, (0, 38, 0, 4), value=0.5))
    output = model(None, CAPTION, latents=latents, image_size=(60, 90))
    torch.testing.assert_close(output.depth_m, model(batch, CAPTION).depth_m)


# Results


def test_results_are_written_as_files_others_read(tmp_path):
    segmentation = segmenter().predict(images(1, 40, 50), CAPTION)
    depth = depther().predict(images(1, 40, 50), CAPTION)
    detection = detector().predict(images(1, 40, 50), CAPTION)
    for number, result in enumerate((segmentation, depth, detection)):
        for path in result.save(tmp_path / str(number)):
            assert path.exists()
    with Image.open(tmp_path / "0.png") as picture:
        assert picture.mode == "L"
        assert torch.equal(torch.tensor(np.array(picture)).to(int), segmentation.class_map)
    with Image.open(tmp_path / "1.png") as picture:
        metres = torch.tensor(np.array(picture)).to(int) / 1000
    torch.testing.assert_close(metres, depth.depth_m, atol=6e-4, rtol=0)
    record = json.loads((tmp_path / "2.json").read_text())
    assert record["caption"] == CAPTION
    assert len(record["objects"]) == len(detection)


def test_a_suffix_that_is_given_stands_once(tmp_path):
    result = segmenter().predict(images(1, 16, 16), CAPTION)
    for name in ("a", "a.png", "a.JSON"):
        assert [path.name for path in result.save(tmp_path / name)] == ["a.png", "a.json"]
    assert [path.name for path in result.save(tmp_path / "a.0", record={"at": 7})] == ["a.0.png", "a.0.json"]
    assert json.loads((tmp_path / "a.0.json").read_text())["at"] == 7


def test_results_say_what_they_are():
    assert "64x64" in repr(segmenter().predict(images(1, 64, 64), CAPTION))
    labels = torch.tensor([0] * 300 + [1] * 99 + [2]).view(20, 20)
    result = SegmentationResult(labels, torch.ones(20, 20), ("road", "sky", "car"))
    assert repr(result) == "SegmentationResult(20x20: road 75 %, sky 25 %, car <1 %)"
    assert result._repr_png_() is None  # it has no image
    depth = depther().predict(images(1, 64, 64), CAPTION)
    assert " m)" in repr(depth)
    result = detector().predict(images(1, 64, 64), CAPTION)
    assert result.names[0] in repr(result)
    for shown in (depth, result, segmenter().predict(images(1, 64, 64), CAPTION)):  # in notebooks
        with Image.open(io.BytesIO(shown._repr_png_())) as picture:
            assert np.array_equal(np.asarray(picture), np.asarray(shown.plot()))
    assert len(result.above(1.0)) == 0
    with pytest.raises(ValueError, match="score must be from 0 to 1; got 50"):
        result.above(50)


# Keeping


@each_task
def test_a_saved_model_predicts_the_same_bit_for_bit(make, tmp_path):
    model = make(tadp.TADPBackbone.from_pretrained("tadp-tiny"), tune="nothing")
    model.save_pretrained(tmp_path / "kept")
    again = type(model).from_pretrained(tmp_path / "kept")
    batch = images(1, 64, 64)
    assert same(model.predict(batch, CAPTION), again.predict(batch, CAPTION))
    assert not again.training
    assert again.options == model.options
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {"config.json", "model.safetensors", "README.md"}


@each_task
def test_a_tuned_unet_is_saved_and_the_frozen_base_is_not(make, tmp_path):
    model = make(tadp.TADPBackbone.from_pretrained("tadp-tiny"), tune="all")
    with torch.no_grad():
        model.backbone.unet.conv_in.weight *= 1.1
    model.save_pretrained(tmp_path / "kept")
    again = type(model).from_pretrained(tmp_path / "kept")
    assert torch.equal(again.backbone.unet.conv_in.weight, model.backbone.unet.conv_in.weight)
    assert same(model.predict(images(1, 64, 64), CAPTION), again.predict(images(1, 64, 64), CAPTION))
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {
        "config.json", "model.safetensors", "README.md", "unet",
    }  # fmt: skip


def test_a_unet_that_was_tuned_and_then_frozen_is_not_lost(tmp_path):
    model = segmenter(tadp.TADPBackbone.from_pretrained("tadp-tiny"), tune="nothing")
    with torch.no_grad():
        model.backbone.unet.conv_in.weight *= 1.1
    model.save_pretrained(tmp_path / "kept")
    again = TADPForSemanticSegmentation.from_pretrained(tmp_path / "kept")
    assert torch.equal(again.backbone.unet.conv_in.weight, model.backbone.unet.conv_in.weight)


def save_without_reading(model, folder, monkeypatch):
    """Save a model without reading the weights of its base model, and load it again."""

    def never(*_, **__):
        raise AssertionError

    with monkeypatch.context() as patch:
        for name in ("tadp.files.model_folder.safe_open", "tadp.files.hub.safe_open"):
            patch.setattr(name, never)
        model.save_pretrained(folder)
    return type(model).from_pretrained(folder)


@pytest.mark.parametrize("how", ["nothing", "drop-in", "lora", "modifier", "undone"])
def test_what_took_the_place_of_a_part_is_kept_and_nothing_is_read_to_know(how, tmp_path, monkeypatch):
    """Only one value differs, which comparing a sample could miss. Replacing a part must be recorded."""
    plain = tadp.TADPBackbone.from_pretrained("tadp-tiny")
    other = copy.deepcopy(plain.unet)
    if how == "lora":
        trained = segmenter(tadp.TADPBackbone.from_pretrained("tadp-tiny"), tune="lora", lora_rank=2)
        trained.save_pretrained(tmp_path / "lora")
        backbone = tadp.TADPBackbone.from_pretrained("tadp-tiny", lora=tmp_path / "lora")
    else:
        with torch.no_grad():
            other.conv_in.weight.view(-1)[1] += 1
        backbone = tadp.TADPBackbone.from_pretrained("tadp-tiny", unet=other if how == "drop-in" else None)
    if how in ("modifier", "undone"):
        installation = tadp.CaptionModifier("a {caption}", unet=other).install(backbone)
        if how == "undone":
            installation.undo()
    model = segmenter(backbone, tune="nothing")
    again = save_without_reading(model, tmp_path / "kept", monkeypatch)
    assert (tmp_path / "kept" / "unet").exists() == (how not in ("nothing", "undone"))
    assert not (tmp_path / "kept" / "text_encoder").exists()
    for name, weight in model.backbone.unet.state_dict().items():
        assert torch.equal(weight, again.backbone.unet.state_dict()[name]), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_another_precision_is_no_other_unet(dtype, tmp_path):
    backbone = tadp.TADPBackbone.from_pretrained("tadp-tiny")
    for number, rounded in enumerate((backbone.to(dtype), copy.deepcopy(backbone).float())):
        segmenter(rounded, tune="nothing").save_pretrained(tmp_path / str(number))
        assert not (tmp_path / str(number) / "unet").exists()


def test_a_lora_is_all_that_is_saved_of_the_unet(tmp_path):
    model = segmenter(tadp.TADPBackbone.from_pretrained("tadp-tiny"), tune="lora", lora_rank=2)
    plain = segmenter(tadp.TADPBackbone.from_pretrained("tadp-tiny"), tune="nothing")
    batch = images(1, 64, 64)
    torch.testing.assert_close(raw(model, batch), raw(plain, batch))  # an untrained LoRA changes nothing
    trained = [name for name, p in model.backbone.unet.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    model.train()(images(2, 64, 64), CAPTION, target(model)).loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    with torch.no_grad():
        for name, parameter in model.backbone.unet.named_parameters():
            if "lora_B" in name:
                parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    model.eval().save_pretrained(tmp_path / "kept")
    again = TADPForSemanticSegmentation.from_pretrained(tmp_path / "kept")
    assert torch.equal(raw(again, batch), raw(model, batch))
    assert not torch.allclose(raw(model, batch), raw(plain, batch))
    assert not (tmp_path / "kept" / "unet").exists()
    # diffusers reads the same file
    loaded = tadp.TADPBackbone.from_pretrained("tadp-tiny")
    loaded.unet.load_lora_adapter(tmp_path / "kept", prefix="unet", weight_name="pytorch_lora_weights.safetensors")
    for loaded_map, expected_map in zip(loaded(batch, CAPTION).maps, model.backbone(batch, CAPTION).maps, strict=True):
        torch.testing.assert_close(loaded_map, expected_map)


def test_a_lora_needs_a_rank_and_a_base_with_a_name(tmp_path):
    with pytest.raises(ValueError, match="lora_rank must be 1 or more; got 0"):
        segmenter(tune="lora", lora_rank=0)
    with pytest.raises(ModelError, match="a LoRA is saved without its base model, which therefore needs a name"):
        segmenter(tune="lora").save_pretrained(tmp_path / "kept")
    assert not (tmp_path / "kept" / "config.json").exists()


def test_a_model_made_from_parts_is_kept_whole_and_once(tmp_path):
    model = segmenter(build_backbone(text_adapter=True))
    model.save_pretrained(tmp_path / "kept")
    again = TADPForSemanticSegmentation.from_pretrained(tmp_path / "kept")
    assert torch.equal(raw(again, images(1, 64, 64)), raw(model, images(1, 64, 64)))
    assert len(list((tmp_path / "kept").rglob("unet"))) == 1
    again.save_pretrained(tmp_path / "again")  # the copy does not refer to the folder it was loaded from
    third = TADPForSemanticSegmentation.from_pretrained(tmp_path / "again")
    assert third.backbone.source is None


def test_the_text_adapter_comes_back(tmp_path):
    model = segmenter(tadp.TADPBackbone.from_pretrained("tadp-tiny", text_adapter=True))
    with torch.no_grad():
        model.backbone.text_adapter.gate += 0.3
    model.save_pretrained(tmp_path / "kept")
    again = TADPForSemanticSegmentation.from_pretrained(tmp_path / "kept")
    assert torch.equal(raw(again, images(1, 64, 64)), raw(model, images(1, 64, 64)))


def test_a_learned_token_comes_back(tmp_path):
    backbone = tadp.TADPBackbone.from_pretrained("tadp-tiny")
    width = backbone.text_encoder.width
    tadp.CaptionModifier("a <dark> photo of {caption}", token="<dark>", embedding=torch.ones(1, width)).install(
        backbone
    )
    model = segmenter(backbone)
    model.save_pretrained(tmp_path / "kept")
    again = TADPForSemanticSegmentation.from_pretrained(tmp_path / "kept")
    assert torch.equal(raw(again, images(1, 64, 64), "a <dark> photo"), raw(model, images(1, 64, 64), "a <dark> photo"))


def test_a_text_encoder_that_was_changed_by_hand_comes_back(tmp_path):
    model = segmenter(tadp.TADPBackbone.from_pretrained("tadp-tiny"), tune="nothing")
    with torch.no_grad():
        next(model.backbone.text_encoder.model.parameters()).mul_(1.5)
    model.save_pretrained(tmp_path / "kept")
    assert (tmp_path / "kept" / "text_encoder").is_dir()
    again = TADPForSemanticSegmentation.from_pretrained(tmp_path / "kept")
    assert torch.equal(raw(again, images(1, 64, 64)), raw(model, images(1, 64, 64)))
    again.save_pretrained(tmp_path / "again")  # and once more
    third = TADPForSemanticSegmentation.from_pretrained(tmp_path / "again")
    assert torch.equal(raw(third, images(1, 64, 64)), raw(model, images(1, 64, 64)))


def test_a_vae_that_was_changed_by_hand_is_refused_and_its_cure_works(tmp_path):
    model = segmenter(tadp.TADPBackbone.from_pretrained("tadp-tiny"), tune="nothing")
    with torch.no_grad():
        next(model.backbone.vae.parameters()).mul_(1.5)
    with pytest.raises(ModelError, match="the VAE of this model is not that of 'tadp-tiny'"):
        model.save_pretrained(tmp_path / "kept")
    assert not (tmp_path / "kept" / "config.json").exists()
    model.backbone.save_pretrained(tmp_path / "backbone")
    cured = segmenter(tadp.TADPBackbone.from_pretrained(tmp_path / "backbone"), tune="nothing")
    cured.save_pretrained(tmp_path / "kept")
    again = TADPForSemanticSegmentation.from_pretrained(tmp_path / "kept")
    assert torch.equal(raw(again, images(1, 64, 64)), raw(cured, images(1, 64, 64)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_no_change_of_the_frozen_parts(dtype, tmp_path):
    backbone = tadp.TADPBackbone.from_pretrained("tadp-tiny", dtype=dtype)
    for number, variant in enumerate((backbone, copy.deepcopy(backbone).float())):
        segmenter(variant, tune="nothing").save_pretrained(tmp_path / str(number))
        assert not (tmp_path / str(number) / "text_encoder").exists()


def test_frozen_parts_that_cannot_be_compared_are_kept_where_that_is_possible(tmp_path):
    shutil.copytree(tiny_folder(), tmp_path / "base")
    model = segmenter(tadp.TADPBackbone.from_pretrained(tmp_path / "base"), tune="nothing")
    shutil.rmtree(tmp_path / "base")
    model.save_pretrained(tmp_path / "kept")
    assert (tmp_path / "kept" / "text_encoder").is_dir()


def test_options_and_record_come_back(tmp_path):
    model = segmenter(prompt_mode="null", head="linear", loss="focal", ignore_label=7, stride_px=10)
    model.captioner_name = "someone/captioner"
    model.save_pretrained(tmp_path / "kept", model_card_kwargs={"data": "two scenes", "metrics": {"mIoU": 0.5}})
    again = TADPForSemanticSegmentation.from_pretrained(tmp_path / "kept")
    assert again.options == model.options
    assert again.captioner_name == "someone/captioner"
    assert again.record == {"data": "two scenes", "metrics": {"mIoU": 0.5}}


@each_task
def test_copies_and_pickles_predict_the_same(make):
    model, batch = make(), images(1, 64, 64)
    expected = model.predict(batch, CAPTION)
    assert same(copy.deepcopy(model).predict(batch, CAPTION), expected)
    assert same(pickle.loads(pickle.dumps(model)).predict(batch, CAPTION), expected)


def test_the_card_says_what_the_model_is(tmp_path):
    model = segmenter(tadp.TADPBackbone.from_pretrained("tadp-tiny"))
    model.captioner_name = "tadp-tiny"
    figures = {"data": "rendered scenes", "metrics": {"mIoU": 0.512345}, "notes": "A trial."}
    model.save_pretrained(tmp_path, model_card_kwargs=figures)
    card = ModelCard.load(tmp_path / "README.md")
    for text in (
        "tadp-tiny",
        "rendered scenes",
        "| mIoU | 0.5123 |",
        "background, dog, red cat",
        "captions",
        "A trial.",
    ):
        assert text in card.text
    assert card.data.license == "apache-2.0"
    assert card.data.library_name == "tadp"
    assert card.data.pipeline_tag == "image-segmentation"


# What can be wrong with a folder


@pytest.fixture
def kept(tmp_path):
    segmenter(tadp.TADPBackbone.from_pretrained("tadp-tiny"), tune="nothing").save_pretrained(tmp_path / "kept")
    return tmp_path / "kept"


def edit(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_model_of_another_task_is_named(kept):
    with pytest.raises(ModelError, match="holds a 'TADPForSemanticSegmentation'; load it with that class"):
        TADPForDepthEstimation.from_pretrained(kept)


def test_a_model_of_a_later_format_says_which_tadp_wrote_it(kept):
    edit(kept, format=2, tadp_version="9.9")
    with pytest.raises(ModelError, match=r"has format 2.*written by tadp 9.9"):
        TADPForSemanticSegmentation.from_pretrained(kept)


def test_a_head_of_another_number_of_classes_is_refused(kept):
    options = json.loads((kept / "config.json").read_text())["options"]
    edit(kept, options=options | {"class_names": [*CLASSES, "car"]})
    with pytest.raises(ModelError, match=r"do not fit the head .*config\.json describes.*another number of classes"):
        TADPForSemanticSegmentation.from_pretrained(kept)


def test_missing_and_unknown_tensors_are_refused(kept):
    state = load_file(kept / "model.safetensors")
    first = sorted(state)[0]
    save_file({name: tensor for name, tensor in state.items() if name != first}, kept / "model.safetensors")
    with pytest.raises(ModelError, match=f"1 tensors differ, such as {first}: file none"):
        TADPForSemanticSegmentation.from_pretrained(kept)
    save_file(state | {"zzz": torch.zeros(1)}, kept / "model.safetensors")
    with pytest.raises(ModelError, match=r"such as zzz.*head none"):
        TADPForSemanticSegmentation.from_pretrained(kept)


def test_missing_and_damaged_files_are_named(kept):
    (kept / "model.safetensors").write_bytes(b"garbage")
    with pytest.raises(CorruptFileError, match=r"model.safetensors is not a complete safetensors file"):
        TADPForSemanticSegmentation.from_pretrained(kept)
    (kept / "model.safetensors").unlink()
    with pytest.raises(MissingFileError, match=r"no model.safetensors in"):
        TADPForSemanticSegmentation.from_pretrained(kept)
    edit(kept, options=None)
    (kept / "config.json").write_text(json.dumps({"model": "TADPForSemanticSegmentation", "format": 1}))
    with pytest.raises(CorruptFileError, match="has no 'options'"):
        TADPForSemanticSegmentation.from_pretrained(kept)


def test_a_base_that_moved_can_be_given(kept, tmp_path):
    base = json.loads((kept / "config.json").read_text())["base"]
    edit(kept, base=base | {"name": str(tmp_path / "gone")})
    with pytest.raises(UnknownModelError, match=r"was trained on '.*gone'.*Or pass base_model="):
        TADPForSemanticSegmentation.from_pretrained(kept)
    assert TADPForSemanticSegmentation.from_pretrained(kept, base_model="tadp-tiny").class_names == tuple(CLASSES)


def test_a_base_in_a_folder_is_found_from_anywhere(tmp_path, monkeypatch):
    build_backbone().save_pretrained(tmp_path / "base model")
    monkeypatch.chdir(tmp_path)
    segmenter(tadp.TADPBackbone.from_pretrained("base model"), tune="nothing").save_pretrained("kept")
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {"config.json", "model.safetensors", "README.md"}
    monkeypatch.chdir("/")
    assert TADPForSemanticSegmentation.from_pretrained(tmp_path / "kept").backbone.source is not None


def test_a_model_with_a_frozen_unet_is_loaded_with_every_way_to_save_memory(tmp_path):
    model = depther(tadp.TADPBackbone.from_pretrained("tadp-tiny"), tune="nothing")
    model.save_pretrained(tmp_path)
    expected = model.predict(images(1, 64, 64), "").depth_m
    for bound_m, ways in (
        (1e-5, {"group_offload": "leaf_level", "idle_on_cpu": True}),
        (5, {"storage_dtype": torch.float8_e4m3fn}),
    ):
        small = TADPForDepthEstimation.from_pretrained(tmp_path, **ways)
        assert small.backbone.dtype == torch.float32
        assert small.backbone.idle_on_cpu is ways.get("idle_on_cpu", False)
        difference_m = (small.predict(images(1, 64, 64), "").depth_m - expected).abs().max()
        assert difference_m <= bound_m
        assert difference_m > 0 or bound_m < 1  # 8 bits round
    model.backbone.unet.requires_grad_(True)
    model.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="need a U-Net that was not trained; this model has tune='all'"):
        TADPForDepthEstimation.from_pretrained(tmp_path, storage_dtype=torch.float8_e4m3fn)
    assert TADPForDepthEstimation.from_pretrained(tmp_path, idle_on_cpu=True).backbone.idle_on_cpu


def test_a_full_disk_leaves_the_old_checkpoint(kept, monkeypatch):
    before = {path.name: path.read_bytes() for path in kept.iterdir()}

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tadp.files.weight_ids.save_file", full)
    with pytest.raises(OutputError, match=r"No space left on device.*nothing was changed"):
        segmenter(tadp.TADPBackbone.from_pretrained("tadp-tiny"), tune="nothing").save_pretrained(kept)
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == before


def test_a_lora_on_a_changed_unet_is_not_saved_alone(tmp_path):
    backbone = tadp.TADPBackbone.from_pretrained("tadp-tiny")
    with torch.no_grad():
        backbone.unet.conv_in.weight *= 1.1
    model = segmenter(backbone, tune="lora", lora_rank=2)
    with pytest.raises(ModelError, match="the U-Net under this LoRA is not that of 'tadp-tiny'"):
        model.save_pretrained(tmp_path / "kept")
    assert not (tmp_path / "kept" / "config.json").exists()


@pytest.mark.parametrize("options", [{"tune": "all"}, {"tune": "nothing"}, {"tune": "lora", "lora_rank": 4}])
def test_a_lora_that_is_there_is_not_passed_over(options):
    backbone = tadp.TADPBackbone.from_pretrained("tadp-tiny")
    segmenter(backbone, tune="lora", lora_rank=2)
    with pytest.raises(ModelError, match="already has a LoRA of rank 2"):
        segmenter(backbone, **options)
    segmenter(backbone, tune="lora", lora_rank=2)


def test_what_an_older_model_left_in_the_folder_is_not_loaded(tmp_path):
    backbone = tadp.TADPBackbone.from_pretrained("tadp-tiny")
    dark = tadp.CaptionModifier(
        "a <dark> {caption}", token="<dark>", embedding=torch.ones(1, backbone.text_encoder.width)
    )
    with torch.no_grad():
        backbone.text_encoder.model.get_input_embeddings().weight *= 1.5
    dark.install(backbone)
    segmenter(backbone, tune="nothing").save_pretrained(tmp_path)
    model = segmenter(tadp.TADPBackbone.from_pretrained("tadp-tiny"), tune="nothing")
    model.save_pretrained(tmp_path)
    again = TADPForSemanticSegmentation.from_pretrained(tmp_path)
    assert torch.equal(raw(again, images(1, 64, 64)), raw(model, images(1, 64, 64)))


def test_a_model_on_a_folder_of_this_machine_is_not_pushed(tmp_path):
    build_backbone().save_pretrained(tmp_path / "base")
    model = segmenter(tadp.TADPBackbone.from_pretrained(tmp_path / "base"), tune="nothing")
    with pytest.raises(ModelError, match="which others do not have"):
        model.push_to_hub("me/my-model")
    shutil.rmtree(tmp_path / "base")  # nobody can load it from there any more, either
    with pytest.raises(ModelError, match="which others do not have"):
        model.push_to_hub("me/model")
    with pytest.raises(ModelError, match="which others do not have"):
        model.stage(tmp_path / "upload")
    assert not (tmp_path / "upload").exists()


# Wrong kinds


@each_task
def test_the_name_of_a_backbone_is_none(make, no_type_checker):
    with pytest.raises(
        TypeError, match=r"backbone must be a TADPBackbone; got 'tadp-tiny'. Pass TADPBackbone.from_pretrained"
    ):
        make("tadp-tiny")


def test_arrays_are_no_masks_and_no_depth(no_type_checker):
    for make, name in ((segmenter, "masks"), (depther, "depth_m")):
        model = make()
        with pytest.raises(TypeError, match=rf"{name} must be a tensor; got ndarray. Pass torch.as_tensor\({name}\)"):
            model(images(2, 64, 64), CAPTION, target(model).numpy())


def test_depth_in_millimetres_is_told():
    model = depther()
    metres = target(model)
    with pytest.raises(
        ValueError, match=r"the model predicts up to 20 m, but the nearest .* Divide millimetres by 1000"
    ):
        model(images(2, 64, 64), CAPTION, 1000 * metres)
    metres[0], metres[1, 0, 0] = 1000.0, 0.0  # far, and unknown
    assert model(images(2, 64, 64), CAPTION, metres).loss.isfinite()


def test_one_scale_is_no_list_of_them(no_type_checker):
    with pytest.raises(TypeError, match=r"scales must be a list of numbers, such as \(0.75, 1.0, 1.25\); got 0.5"):
        segmenter().predict(images(1, 64, 64), CAPTION, scales=0.5)
