"""Windows of one image or of several go through the model in batches, with the results of one at a time."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from builders import build_backbone, images
from PIL import Image

from tadp.datasets import RenderedScenes
from tadp.datasets.scenes import CLASSES as SCENE_CLASSES
from tadp.errors import CaptionError, ImageError
from tadp.tasks import TADPForDepthEstimation, TADPForObjectDetection, TADPForSemanticSegmentation, evaluate
from tadp.tasks.evaluation import predict_each

CAPTIONS = ("a dog on grass", "red cat", "a photo of a blue coat", "dog and cat", "")


def segmenter(**options):
    torch.manual_seed(0)
    names = ["background", *SCENE_CLASSES]
    return TADPForSemanticSegmentation(build_backbone(**options), class_names=names, window_px=64).eval()


def depther(**options):
    torch.manual_seed(0)
    model = TADPForDepthEstimation(build_backbone(), max_depth_m=20.0, window_px=64, **options).eval()
    with torch.no_grad():  # a new head predicts the same depth everywhere
        for name, parameter in model.head.named_parameters():
            if parameter.ndim > 1 and not name.startswith(("layer", "out_layer")):
                parameter.normal_(std=(2 / parameter[0].numel()) ** 0.5)
    return model


def detector():
    torch.manual_seed(0)
    return TADPForObjectDetection(build_backbone(), class_names=list(SCENE_CLASSES), image_px=64).eval()


MAKERS = {
    "segmentation": segmenter, "depth": depther, "padded depth": lambda: depther(pad_with_grey=True),
    "detection": detector,
}  # fmt: skip
each_task = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def counted(model):
    """The batch size of each pass of the U-Net from now on."""
    sizes, forward = [], model.backbone.unet.conv_in.forward
    model.backbone.unet.conv_in.forward = lambda latents: sizes.append(len(latents)) or forward(latents)
    return sizes


def assert_same(result, expected):
    for name in ("probabilities", "scores", "depth_m", "boxes"):
        value = getattr(expected, name, None)
        if value is not None:
            torch.testing.assert_close(getattr(result, name), value, rtol=1e-5, atol=1e-5)
    assert result.caption == expected.caption


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_windows_scales_and_mirrored_copies_of_an_image_go_through_the_unet_together(batch_size):
    model, image = segmenter(), images(1, 90, 130)
    options = {"stride_px": 40, "scales": (0.75, 1.0), "flip": True, "return_probabilities": True}
    one_by_one = counted(model)
    expected = model.predict(image, CAPTIONS[0], **options)
    assert set(one_by_one) == {1}
    model = segmenter()
    sizes = counted(model)
    result = model.predict(image, CAPTIONS[0], **options, batch_size=batch_size)
    assert len(sizes) == math.ceil(len(one_by_one) / batch_size)
    assert max(sizes) <= batch_size
    assert sum(sizes) == len(one_by_one) == 2 * (2 * 2 + 2 * 3)
    assert_same(result, expected)
    assert batch_size > 1 or torch.equal(result.probabilities, expected.probabilities)


def test_windows_of_a_depth_map_go_through_the_unet_together():
    model, image = depther(), images(1, 70, 150)
    expected = model.predict(image, CAPTIONS[0], flip=True)
    sizes = counted(model)
    assert_same(model.predict(image, CAPTIONS[0], flip=True, batch_size=3), expected)
    assert max(sizes) == 3
    assert len(sizes) == math.ceil(sum(sizes) / 3)


@each_task
@pytest.mark.parametrize("batch_size", [2, 5, 8])
def test_several_images_go_through_the_unet_together_each_with_its_own_text(make, batch_size):
    model = make()
    requests = [(k, images(1, 60, 60, seed=k), caption) for k, caption in enumerate(CAPTIONS)]
    expected = {k: model.predict(image, caption) for k, image, caption in requests}
    sizes = counted(model)
    results = {k: predict() for k, predict in predict_each(model, requests, batch_size=batch_size)}
    assert list(results) == list(range(5))
    assert len(sizes) == math.ceil(5 / batch_size)
    assert max(sizes) <= batch_size
    for k, result in results.items():
        assert_same(result, expected[k])
    assert_same_is_strict(expected)


def assert_same_is_strict(expected):
    """Fail if `assert_same` could not tell two of the images apart."""
    with pytest.raises(AssertionError):
        assert_same(expected[0], expected[1])


def test_images_of_several_sizes_are_batched_by_the_size_of_their_windows():
    model = segmenter()
    shapes = [(64, 100), (40, 50), (64, 100), (40, 50), (90, 64), (40, 50)]
    requests = [(k, images(1, *shape, seed=k), CAPTIONS[k % 5]) for k, shape in enumerate(shapes)]
    expected = {k: model.predict(image, caption) for k, image, caption in requests}
    sizes = counted(model)
    for k, predict in predict_each(model, requests, batch_size=6):
        assert_same(predict(), expected[k])
    assert sizes == [6, 3]  # windows of 64x64, and of 40x50


@pytest.mark.parametrize("make", [segmenter, depther, detector])
def test_evaluation_in_batches_gives_the_same_figures(make):
    model, scenes, results = make(), RenderedScenes(5, seed=9, size=64), {}
    for batch_size in (1, 3):
        sizes = counted(model)
        results[batch_size] = []
        figures = evaluate(
            model, scenes, batch_size=batch_size,
            on_sample=lambda sample, result, seen=results[batch_size]: seen.append((sample.image_id, result)),
        )  # fmt: skip
        assert len(sizes) == math.ceil(5 / batch_size)
        results[str(batch_size)] = str(figures)
    for (name, result), (expected_name, expected) in zip(results[3], results[1], strict=True):
        assert name == expected_name
        assert_same(result, expected)
    assert results["3"] == results["1"]


def test_a_predict_of_a_subclass_is_called_whatever_the_batch_size():
    class Negative(TADPForDepthEstimation):
        def predict(self, image, caption=None, **options):
            result = super().predict(image, caption, **options)
            return dataclasses.replace(result, depth_m=20 - result.depth_m)

    model = depther()
    model.__class__ = Negative
    requests = [(name, images(1, 64, 64), name) for name in ("a dog", "a cat")]
    for name, predict in predict_each(model, requests, batch_size=2):
        assert_same(predict(), model.predict(requests[0][1], name))


def test_each_image_has_the_class_whose_text_it_gets():
    torch.manual_seed(0)
    rooms = ("kitchen", "street", "dog")
    model = TADPForDepthEstimation(
        build_backbone(attach_attention=()), max_depth_m=20.0, window_px=64, prompt_mode="class_embeddings",
        prompt_classes=rooms, own_class=True,
    ).eval()  # fmt: skip
    requests = [(room, images(1, 64, 64), room) for room in rooms]
    expected = {room: model.predict(image, room) for room, image, _ in requests}
    sizes = counted(model)
    for room, predict in predict_each(model, requests, batch_size=3):
        assert_same(predict(), expected[room])
    assert sizes == [3]


def test_sampled_latents_of_a_batch_are_those_of_each_window_alone():
    model, image = segmenter(sample_posterior=True), images(1, 64, 130)
    expected = model.predict(image, CAPTIONS[0], return_probabilities=True)
    sizes = counted(model)
    assert_same(model.predict(image, CAPTIONS[0], return_probabilities=True, batch_size=8), expected)
    assert sizes == [3]


def break_bright_images(model):
    forward = model.backbone.vae.forward

    def broken(pixels):
        posterior = forward(pixels)
        posterior.mean[pixels.flatten(1).mean(dim=1) > 0.5] = torch.nan
        return posterior

    model.backbone.vae.forward = broken


@each_task
def test_an_image_that_fails_stops_no_other_and_is_named(make, tmp_path):
    model = make()
    break_bright_images(model)
    white = tmp_path / "white.png"
    Image.new("RGB", (100, 64), "white").save(white)
    requests = [(0, images(1, 64, 64), "a dog"), (1, white, "a dog"), (2, tmp_path / "none.png", "a dog")]
    requests.append((3, images(1, 64, 64, seed=3), "red cat"))
    results = {}
    for k, predict in predict_each(model, requests, batch_size=4):
        if k == 1:
            with pytest.raises(ImageError, match=r"white.png: the image cannot be predicted: the map of level 0"):
                predict()
        elif k == 2:
            with pytest.raises(ImageError, match=r"none.png"):
                predict()
        else:
            results[k] = predict()
    for k in (0, 3):
        assert_same(results[k], model.predict(requests[k][1], requests[k][2]))


def test_evaluation_names_the_sample_that_fails_and_not_its_neighbour():
    scenes = list(RenderedScenes(3, seed=9, size=64))
    model, seen = segmenter(), []
    break_bright_images(model)
    scenes[1] = dataclasses.replace(scenes[1], image=np.full((64, 64, 3), 255, np.uint8))
    with pytest.raises(ImageError, match=rf"{scenes[1].image_id}: the image cannot be predicted"):
        evaluate(model, scenes, batch_size=3, on_sample=lambda sample, _: seen.append(sample.image_id))
    assert seen == [scenes[0].image_id]


def test_a_caption_that_cannot_be_used_is_refused_in_its_turn():
    model = segmenter()
    requests = [(0, images(1, 64, 64), "a dog"), (1, images(1, 64, 64), None)]
    calls = dict(predict_each(model, requests, batch_size=2))
    assert calls[0]().caption == "a dog"
    with pytest.raises(CaptionError, match="this model needs a caption"):
        calls[1]()


@pytest.mark.parametrize("make", [segmenter, depther, detector])
def test_a_batch_size_below_one_is_refused(make, no_type_checker):
    model, scenes = make(), RenderedScenes(1, seed=9, size=64)
    for call in (lambda size: model.predict(images(1, 64, 64), "a", batch_size=size),
                 lambda size: evaluate(model, scenes, batch_size=size)):  # fmt: skip
        with pytest.raises(ValueError, match="batch_size must be 1 or more; got 0"):
            call(0)
        with pytest.raises(TypeError, match=r"batch_size must be a whole number; got 2\.0"):
            call(2.0)
