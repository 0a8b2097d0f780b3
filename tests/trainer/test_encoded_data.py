"""Images and captions that are encoded only once, and training without VAE and text encoder."""

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from builders_training import FLIP, loss, make_data, make_model, make_options, own_training_state, train, weights
from torch import nn
from torch.utils.data import DataLoader

import tadp
from tadp.datasets import RandomCrop, RandomFlip, RenderedScenes
from tadp.errors import CaptionError, OutputError, TrainingError
from tadp.tasks import TADPForSemanticSegmentation
from tadp.trainer import EncodedData, training_loop
from tadp.trainer.processes import start
from tadp.trainer.training_batches import training_data
from tadp.trainer.training_loop import LoopSettings
from tadp.trainer.unloading import unloaded, unneeded_parts


@pytest.fixture(autouse=True)
def _state():
    with own_training_state():
        yield


def tiny(**options) -> tadp.TADPBackbone:
    return tadp.TADPBackbone.from_pretrained("tadp-tiny", **options)


def is_empty(module: nn.Module) -> bool:
    return all(weight.numel() == 0 for weight in module.parameters())


def test_features_of_stored_text_and_latents_are_those_of_the_images(tmp_path):
    backbone, data = tiny(), RenderedScenes(5, seed=3)
    encoded = EncodedData.encode(tmp_path, backbone, data, batch_size=2)
    loader = DataLoader(encoded, batch_size=2, collate_fn=encoded.collate)
    with torch.inference_mode():
        for number, part in enumerate(loader):
            expected = backbone(part.batch.images, part.batch.captions)
            actual = backbone.extract(part.latents, part.text)
            for own, other in zip(actual.maps, expected.maps, strict=True):
                assert torch.equal(own, other), number
            text = backbone.encode_text(part.batch.captions)
            assert (part.text.words, part.text.tokens) == (text.words, text.tokens)


def test_a_head_trained_from_stored_latents_and_text_is_the_same_bit_for_bit(tmp_path):
    trained = {}
    for is_cached in (False, True):
        with own_training_state():
            torch.manual_seed(0)
            data = RenderedScenes(8, seed=1, size=64)
            model = TADPForSemanticSegmentation(
                tiny(), class_names=data.class_names, tune="nothing", head_options={"fpn_channels": 8, "channels": 8}
            )
            options = make_options(tmp_path / str(is_cached), cache_latents=is_cached)
            source = training_data(
                model, data, FLIP, seed=3, accelerator=Accelerator(cpu=True), batch_size=4,
                folder=tmp_path / "encoded" if is_cached else None,
            )  # fmt: skip
            trained[is_cached] = train(options, model=model, data=source).head.state_dict()
    assert all(torch.equal(trained[True][name], trained[False][name]) for name in trained[True])


def test_vae_and_text_encoder_are_not_in_memory_during_the_steps(tmp_path):
    seen, evaluated, model = [], [], make_model()
    backbone, source = model.backbone, make_data()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}

    def watched(wrapped, part):
        seen.append(is_empty(backbone.vae) and is_empty(backbone.text_encoder))
        return loss(wrapped, part)

    def evaluate(current):
        evaluated.append(is_empty(backbone.vae) or is_empty(backbone.text_encoder))
        backbone(source[0].image, "a dog")
        return {"score": 1.0}

    train(make_options(tmp_path, cache_latents=True, evaluate_every=2), model=model, loss=watched, evaluate=evaluate)
    assert seen == [True] * 6
    assert evaluated == [False] * 2
    frozen = {name for name in before if name.startswith(("vae.", "text_encoder."))}
    assert all(torch.equal(backbone.state_dict()[name], before[name]) for name in frozen)
    assert not list(tmp_path.glob("encoders*"))  # the file is removed at the end

    seen.clear()
    train(make_options(tmp_path / "uncached"), model=make_model(), loss=watched)
    assert not any(seen)


def test_weights_come_back_after_an_error_and_in_their_layout(tmp_path):
    accelerator, _ = start(make_options(tmp_path).schedule, seed=0)
    backbone = tiny(memory_format=torch.channels_last)
    weight, before = backbone.vae.encoder.conv_in.weight, backbone.vae.encoder.conv_in.weight.clone()
    sizes = []

    def fail():
        with unloaded([backbone.vae], tmp_path / "w", accelerator):
            sizes.append(weight.numel())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert sizes == [0]
    assert weight is backbone.vae.encoder.conv_in.weight
    assert weight.stride() == before.stride()
    assert torch.equal(weight, before)


def test_parts_that_train_stay_in_memory(tmp_path):
    accelerator, _ = start(make_options(tmp_path).schedule, seed=0)
    backbone = tiny()
    next(backbone.text_encoder.parameters()).requires_grad_(True)
    with unloaded([backbone.vae, backbone.text_encoder], tmp_path / "w", accelerator):
        assert is_empty(backbone.vae)
        assert not any(weight.numel() == 0 for weight in backbone.text_encoder.parameters())


def test_the_text_encoder_stays_if_captions_are_not_stored(tmp_path):
    model, data = make_model(), make_data(2)
    without = EncodedData.encode(tmp_path / "a", model.backbone, data, captions=False)
    assert unneeded_parts(model, without) == [model.backbone.vae]
    assert without[0].text is None
    both = EncodedData.encode(tmp_path / "b", model.backbone, data)
    assert unneeded_parts(model, both) == [model.backbone.vae, model.backbone.text_encoder]
    null = make_model(prompt_mode="null")
    assert unneeded_parts(null, without) == [null.backbone.vae, null.backbone.text_encoder]


def test_the_optimizer_is_fused_and_trains_to_the_same_weights(tmp_path, monkeypatch):
    fused, kinds = [], []
    for devices in (("cpu",), ()):
        monkeypatch.setattr(training_loop, "FUSED_ADAM", devices)
        settings = LoopSettings(output=tmp_path, schedule=make_options(tmp_path).schedule, micro_batch=4)
        _, optimizer, _ = training_loop.prepared(make_model(), settings, Accelerator(cpu=True), total=1)
        kinds.append(optimizer.optimizer.defaults["fused"])
        with own_training_state():
            fused.append(weights(train(make_options(tmp_path / str(len(devices))))))
    assert kinds == [True, False]
    for name, tensor in fused[0].items():
        torch.testing.assert_close(tensor, fused[1][name], rtol=1e-3, atol=1e-3)


def test_an_interrupted_run_continues(tmp_path, monkeypatch):
    backbone, data, seen = tiny(), RenderedScenes(6, seed=3), []
    original = backbone.encode_image

    def encode(images):
        seen.append(len(images))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return original(images)

    backbone.encode_image = encode
    with pytest.raises(KeyboardInterrupt):
        EncodedData.encode(tmp_path, backbone, data, batch_size=2)
    EncodedData.encode(tmp_path, backbone, data, batch_size=2)
    assert seen == [2, 2, 2, 2]  # the first two batches are not encoded again
    assert len(list(tmp_path.glob("*.safetensors"))) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transforms": [RandomFlip()]}, r"transforms was \[\] and is \['RandomFlip"),
        ({"captions": False}, "captions was True and is False"),
        ({"indices": [1]}, "image_ids was"),
        ({"batch_size": 1}, "batch_size was 16 and is 1"),
    ],
)
def test_files_with_other_settings_are_refused(changes, message, tmp_path):
    backbone, data = tiny(), RenderedScenes(2, seed=3)
    EncodedData.encode(tmp_path, backbone, data)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(OutputError, match=message):
        EncodedData.encode(tmp_path, backbone, data, **changes)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files
    with pytest.raises(OutputError, match="scale_latents was True and is False"):
        EncodedData.encode(tmp_path, backbone.with_options(scale_latents=False), data)


def test_a_caption_that_has_changed_is_noticed(tmp_path):
    backbone, data = tiny(), RenderedScenes(2, seed=3)
    encoded = EncodedData.encode(tmp_path, backbone, data)
    encoded.data = [replace(data[0], caption="a cat"), data[1]]
    assert encoded[1].text is not None
    with pytest.raises(CaptionError, match=r"has the caption '.*' of '.*', which now has 'a cat'"):
        encoded[0]


def test_what_cannot_be_encoded_once_is_refused(tmp_path):
    data = RenderedScenes(2, seed=3)
    with pytest.raises(TrainingError, match="at most flipped at random, but they go through RandomCrop"):
        EncodedData.encode(tmp_path, tiny(), data, [RandomCrop(64)])
    with pytest.raises(TrainingError, match="sample_posterior=True, which draws new latents"):
        EncodedData.encode(tmp_path, tiny(sample_posterior=True), data)
    nameless = make_data(2)
    nameless._texts = [None, None]
    with pytest.raises(CaptionError, match=r"has no caption to encode\. Add one, or pass captions=False"):
        EncodedData.encode(tmp_path, tiny(), nameless)
    with pytest.raises(IndexError, match=r"image 1 is not stored in .*, which has 1 images"):
        EncodedData.encode(tmp_path / "one", tiny(), data, indices=[0])[1]
