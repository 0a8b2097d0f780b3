"""`predict` during training, and images whose features are not finite."""

import copy
import threading

import pytest
import torch
from builders import build_backbone, images
from PIL import Image

import tadp
from tadp.datasets.sample import Sample
from tadp.errors import ImageError
from tadp.tasks import TADPForDepthEstimation, TADPForObjectDetection, TADPForSemanticSegmentation, evaluate

CLASSES = ["background", "dog", "red cat"]


def segmenter(*, sample_posterior: bool = False, **options):
    torch.manual_seed(0)
    backbone = build_backbone(sample_posterior=sample_posterior)
    return TADPForSemanticSegmentation(backbone, class_names=CLASSES, window_px=64, **options)


def depther(**options):
    torch.manual_seed(0)
    return TADPForDepthEstimation(build_backbone(), max_depth_m=20.0, window_px=64, **options)


def detector():
    torch.manual_seed(0)
    return TADPForObjectDetection(build_backbone(), class_names=CLASSES[1:], image_px=64)


MAKERS = {
    "segmentation": segmenter, "depth": depther, "padded depth": lambda: depther(pad_with_grey=True),
    "detection": detector,
}  # fmt: skip
each_task = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def break_features(model, *, brighter_than: float = 0.9) -> None:
    """Let the U-Net return NaN for bright images, as one that overflows does."""
    forward = model.backbone.vae.forward

    def broken(pixels):
        posterior = forward(pixels)
        posterior.mean[(pixels.flatten(1).mean(dim=1) + 1) / 2 > brighter_than] = torch.nan
        return posterior

    model.backbone.vae.forward = broken


@pytest.mark.parametrize("samples", [False, True])
def test_training_beside_predictions_gives_equal_bits_and_statistics(samples):
    model, stop = segmenter(sample_posterior=samples).train(), threading.Event()
    alone = copy.deepcopy(model)
    modes = [module.training for module in model.modules()]
    results: list[torch.Tensor] = []

    def predict() -> None:
        while not stop.is_set():
            results.append(model.predict(images(1, 64, 64), "a dog").scores)

    threads = [threading.Thread(target=predict) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        while len(results) < 3:
            stop.wait(0.01)
        for seed in range(3):
            losses = []
            for trained in (model, alone):
                torch.manual_seed(seed)
                masks = torch.randint(0, 3, (2, 64, 64), generator=torch.Generator().manual_seed(seed))
                losses.append(trained(images(2, 64, 64, seed=seed), "a dog", masks).loss)
            assert torch.equal(*losses)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert [module.training for module in model.modules()] == modes
    expected = alone.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


def test_a_prediction_from_sampled_latents_leaves_the_global_generator_alone():
    model, plain = segmenter(sample_posterior=True), segmenter()
    state = torch.get_rng_state()
    scores = model.predict(images(1, 64, 64), "a dog").scores
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(model.predict(images(1, 64, 64), "a dog").scores, scores)
    assert not torch.equal(plain.predict(images(1, 64, 64), "a dog").scores, scores)
    model.train()(images(2, 64, 64), "a dog")
    assert not torch.equal(torch.get_rng_state(), state)  # a training still draws from it


@each_task
def test_predicting_in_training_mode_is_predicting(make):
    model = make().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first = model.predict(images(1, 64, 64), "a dog")
    second = copy.deepcopy(model).eval().predict(images(1, 64, 64), "a dog")
    for name in ("scores", "depth_m", "boxes"):
        if name in vars(first):
            assert torch.equal(getattr(first, name), getattr(second, name))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@each_task
def test_an_image_whose_features_are_not_finite_fails_by_name(make, tmp_path):
    model = make().eval()
    break_features(model)
    white = tmp_path / "white.png"
    Image.new("RGB", (64, 64), "white").save(white)
    with pytest.raises(
        ImageError, match=r"white.png: the image cannot be predicted: the map of level 0 has NaN or inf"
    ):
        model.predict(white, "a dog")
    model.predict(images(1, 64, 64), "a dog")


@pytest.mark.parametrize("make", [segmenter, depther])
def test_a_head_that_is_not_finite_is_told_apart(make):
    model = make().eval()
    with torch.no_grad():
        list(model.head.parameters())[-1].fill_(torch.nan)
    with pytest.raises(ImageError, match=r"the features are finite, but the head's result is NaN"):
        model.predict(images(1, 64, 64), "a dog")


def test_evaluate_names_the_sample():
    model = segmenter().eval()
    break_features(model)
    white = torch.full((64, 64, 3), 255, dtype=torch.uint8).numpy()
    sample = Sample(white, "white-7", caption="a dog", mask=torch.zeros(64, 64, dtype=torch.int64).numpy())
    with pytest.raises(ImageError, match=r"white-7: the image cannot be predicted"):
        evaluate(model, [sample])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_head_that_is_not_finite_is_refused_when_loaded(value, tmp_path):
    model = TADPForSemanticSegmentation(tadp.TADPBackbone.from_pretrained("tadp-tiny"), class_names=CLASSES)
    with torch.no_grad():
        next(iter(model.head.parameters())).view(-1)[0] = value
    model.save_pretrained(tmp_path / "model")
    with pytest.raises(tadp.errors.CorruptFileError, match=r"model.safetensors has NaN or infinity in"):
        TADPForSemanticSegmentation.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize("name", ["../elsewhere", "a/../../b"])
def test_a_base_model_outside_is_refused(name, tmp_path):
    import json

    model = TADPForSemanticSegmentation(tadp.TADPBackbone.from_pretrained("tadp-tiny"), class_names=CLASSES)
    model.save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    config["base"]["name"] = name
    path.write_text(json.dumps(config))
    with pytest.raises(
        tadp.errors.ModelError, match=r"config.json has the base model .* a path out of its folder. Pass base_"
    ):
        TADPForSemanticSegmentation.from_pretrained(tmp_path / "model")
    TADPForSemanticSegmentation.from_pretrained(tmp_path / "model", base_model="tadp-tiny")
    config["base"] = {"name": "tadp-tiny", "revision": None, "options": {"lora": "/elsewhere.safetensors"}}
    path.write_text(json.dumps(config))
    with pytest.raises(tadp.errors.ModelError, match=r"config.json has the backbone option 'lora'"):
        TADPForSemanticSegmentation.from_pretrained(tmp_path / "model")


def test_names_in_a_set_are_refused(no_type_checker):
    with pytest.raises(TypeError, match=r"names must have a fixed order; got a set, which has none. Pass sorted"):
        build_backbone(pool_attention={"dog", "cat"})
    with pytest.raises(TypeError, match=r"names must have a fixed order"):
        build_backbone(pool_attention=["dog"], pool_synonyms={"dog": {"puppy", "hound"}})
    with pytest.raises(TypeError, match=r"prompt_classes must have a fixed order"):
        segmenter(prompt_mode="class_names", prompt_classes={"dog", "cat"})
    with pytest.raises(TypeError, match=r"captions must be a list, one caption per image in the same order; got set"):
        build_backbone().encode_text({"a dog", "a cat"})
    with pytest.raises(TypeError, match=r"blocks must be a list of numbers, finest level first.* got \{"):
        build_backbone(blocks={1, 2, 3})


@pytest.mark.parametrize("length", [0, -1])
def test_a_text_has_at_least_one_token(length):
    with pytest.raises(tadp.errors.OptionError, match=rf"text_length must be 1 or more; got {length}"):
        build_backbone(text_length=length)
