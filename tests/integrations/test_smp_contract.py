"""smp's encoder does what smp documents for an encoder and for its models; every public name is tested or left out."""

import pytest
import segmentation_models_pytorch as smp
import torch
from builders import images
from contracts import check_covered, public_names
from segmentation_models_pytorch.base import SegmentationModel
from segmentation_models_pytorch.encoders._base import EncoderMixin

from tadp.integrations.smp import SmpEncoder, preprocessing_params, register

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
TRAINED = {"Unet", "FPN", "UPerNet", "DeepLabV3Plus"}  # by test_integrations.py
KINDS = ("UnetPlusPlus", "MAnet", "Linknet", "PSPNet", "DeepLabV3", "PAN", "Segformer")


@pytest.fixture(scope="module", autouse=True)
def registered(model_source):
    register(model_source, name="tadp_contract", text="a dog")


def unet(**options):
    return smp.Unet("tadp_contract", encoder_weights=None, classes=3, decoder_channels=(8, 8, 8, 8, 8), **options)


@pytest.fixture(scope="module")
def model():
    """A model that tests may train but not freeze."""
    return unet()


def frozen(model):
    return {name for name, parameter in model.named_parameters() if not parameter.requires_grad}


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_each_architecture_returns_logits_of_the_images_size(kind):
    model = getattr(smp, kind)("tadp_contract", encoder_weights=None, classes=3).eval()
    height = 128 if kind == "PAN" else 64  # PAN halves its coarsest map three times
    assert model(images(1, height, 128)).shape == (1, 3, height, 128)


def test_the_architecture_that_is_left_out_says_why():
    with pytest.raises(ValueError, match=r"^Only Timm encoders are supported for DPT"):
        smp.DPT("tadp_contract", encoder_weights=None)
    assert {name for name, kind in vars(smp).items() if isinstance(kind, type)} == {*KINDS, *TRAINED, "DPT"}


def test_forward_and_backward_reach_encoder_and_decoder(model):
    assert isinstance(model.train().encoder, SmpEncoder)
    logits = model(images(2, 64, 64))
    logits.mean().backward()
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert [name for name in trained if model.get_parameter(name).grad is None] == []
    assert any("unet.mid_block" in name for name in trained)


@torch.no_grad()
def test_a_second_head_gets_the_coarsest_map():
    model = unet(aux_params={"classes": 5}).eval()
    masks, labels = model(images(2, 64, 64))
    assert (masks.shape, labels.shape) == ((2, 3, 64, 64), (2, 5))


def test_initialize_leaves_the_encoder_alone(model):
    before = {name: weight.clone() for name, weight in model.encoder.state_dict().items()}
    model.initialize()
    assert all(torch.equal(weight, before[name]) for name, weight in model.encoder.state_dict().items())


@torch.no_grad()
def test_sizes_follow_smps_rule_and_the_encoder_takes_any(model, monkeypatch):
    model.eval()
    assert not model.requires_divisible_input_shape  # a Unet
    model.check_input_shape(images(1, 64, 70))
    monkeypatch.setattr(model, "requires_divisible_input_shape", True)
    with pytest.raises(RuntimeError, match=r"^Wrong input shape height=64, width=70\. .* divisible by 32"):
        model(images(1, 64, 70))
    assert [tuple(level.shape[2:]) for level in model.encoder(images(1, 64, 70))] == [
        (64, 70), (32, 35), (16, 18), (8, 9), (4, 5), (2, 3),
    ]  # fmt: skip


def test_predict_is_the_forward_pass_in_evaluation_mode(model):
    model, pixels = model.train(), images(1, 64, 64)
    predicted = model.predict(pixels)
    assert not model.training
    with torch.no_grad():
        torch.testing.assert_close(model(pixels), predicted.clone())


def test_unfreezing_the_encoder_leaves_frozen_what_never_trains(model_source):
    register(model_source, name="tadp_freezing", text="a dog")
    model = smp.Unet("tadp_freezing", encoder_weights=None, encoder_depth=4, decoder_channels=(8,) * 4)
    before = frozen(model)
    for part in ("vae", "text_encoder", "unet.conv_out"):
        assert any(f"backbone.{part}" in name for name in before)
    model.freeze_encoder()
    assert all(name in frozen(model) for name, _ in model.named_parameters() if name.startswith("encoder."))
    assert model.train().decoder.training
    model.unfreeze_encoder()
    assert frozen(model) == before
    assert {*model.encoder.parameters()} < {parameter for _, parameter in model.encoder.named_parameters()}


def test_a_model_comes_back_from_smps_folder_and_state_dict(model, tmp_path, monkeypatch):
    model, pixels = model.eval(), images(1, 64, 64)
    uploaded = []
    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi.create_repo", lambda *_, **options: type("Repo", (), options))
    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi.upload_folder", lambda *_, **given: uploaded.append(given))
    model.save_pretrained(tmp_path / "model")
    model.push_to_hub("owner/unet")
    assert uploaded[0]["repo_id"] == "owner/unet"
    assert model.config["encoder_name"] == "tadp_contract"
    again = smp.Unet.from_pretrained(tmp_path / "model").eval()
    with torch.no_grad():
        torch.testing.assert_close(again(pixels), model(pixels))
        for parameter in again.parameters():
            parameter.zero_()
        again.load_state_dict(model.state_dict())
        torch.testing.assert_close(again(pixels), model(pixels))


def test_channels_depth_and_stride_are_what_forward_returns():
    encoder = smp.encoders.get_encoder("tadp_contract", depth=4, weights=None)  # test_integrations.py tries each depth
    with torch.no_grad():
        maps = encoder(images(1, 64, 64))
    assert [level.shape[1] for level in maps] == encoder.out_channels
    assert 64 // maps[-1].shape[2] == encoder.output_stride == 16
    with pytest.raises(ValueError, match=r"takes images of 3 channels; got in_channels=1"):
        encoder.set_in_channels(1)
    encoder.set_in_channels(3)


def test_dilation_is_interpolation():
    encoder = smp.encoders.get_encoder("tadp_contract", weights=None, output_stride=8)
    with torch.no_grad():
        assert [level.shape[2] for level in encoder(images(1, 64, 64))] == [64, 32, 16, 8, 8, 8]
    encoder.make_dilated(8)  # does nothing, because the encoder was built for it
    with pytest.raises(NotImplementedError, match=r"cannot be dilated; pass encoder_output_stride"):
        encoder.get_stages()


def test_names_of_downloads_are_refused_in_one_sentence():
    for call in (
        lambda: smp.Unet("tadp_contract"),
        lambda: smp.encoders.get_preprocessing_params("tadp_contract"),
        lambda: smp.encoders.get_preprocessing_fn("tadp_contract"),
    ):
        with pytest.raises(
            ValueError, match=r"no weights 'imagenet' to download .*: pass encoder_weights=None, .*params\(\)\.$"
        ):
            call()
    settings = smp.encoders.encoders["tadp_contract"]["pretrained_settings"]
    assert (list(settings), len(settings)) == ([], 0)


def test_preprocessing_params_are_the_four_values_of_smps_own(model_source):
    register(model_source, name="tadp_normalised", mean=MEAN, std=STD, text="")
    plain, normalised = preprocessing_params("tadp_contract"), preprocessing_params("tadp_normalised")
    assert plain == {"input_space": "RGB", "input_range": [0, 1], "mean": [0.0] * 3, "std": [1.0] * 3}
    assert normalised == plain | {"mean": MEAN, "std": STD}
    pixels = (255 * images(1, 64, 64)[0].permute(1, 2, 0)).round().numpy()
    prepared = smp.encoders._preprocessing.preprocess_input(pixels, **normalised)
    encoder = smp.encoders.get_encoder("tadp_normalised", weights=None, depth=3)
    restored = encoder.pyramid._pixels(torch.from_numpy(prepared).permute(2, 0, 1)[None].float())
    torch.testing.assert_close(restored[0].permute(1, 2, 0), torch.from_numpy(pixels / 255).float())
    with pytest.raises(ValueError, match=r"'resnet18' is not an encoder of tadp; call register"):
        preprocessing_params("resnet18")


def test_the_registry_has_the_encoder_among_smps_own():
    assert {"resnet34", "tadp_contract"} <= set(smp.encoders.get_encoder_names()) == set(smp.encoders.encoders)


def test_flags_say_what_works():
    flags = {name: getattr(SmpEncoder, name) for name in vars(EncoderMixin) if name.startswith("_is_torch")}
    assert flags == {"_is_torch_scriptable": False, "_is_torch_exportable": True, "_is_torch_compilable": True}


def test_every_name_of_smps_interface_is_tested_or_left_out():
    methods = {"forward", "parameters"} | public_names(EncoderMixin)
    own = [kind for kind in SegmentationModel.__mro__ if kind not in torch.nn.Module.__mro__]
    methods |= public_names(*own)
    check_covered(
        methods | {*smp.encoders.__all__} | {name for name in vars(EncoderMixin) if name.startswith("_is_torch")},
        written_for=("segmentation_models_pytorch", "0.6.0"),
        tests=globals(),
        tested={
            "test_forward_and_backward_reach_encoder_and_decoder": ["forward"],
            "test_initialize_leaves_the_encoder_alone": ["initialize"],
            "test_sizes_follow_smps_rule_and_the_encoder_takes_any": [
                "check_input_shape", "requires_divisible_input_shape",
            ],
            "test_predict_is_the_forward_pass_in_evaluation_mode": ["predict"],
            "test_unfreezing_the_encoder_leaves_frozen_what_never_trains": [
                "freeze_encoder", "unfreeze_encoder", "train", "parameters",
            ],
            "test_a_model_comes_back_from_smps_folder_and_state_dict": [
                "save_pretrained", "from_pretrained", "push_to_hub", "load_state_dict", "config",
            ],
            "test_channels_depth_and_stride_are_what_forward_returns": [
                "out_channels", "output_stride", "set_in_channels", "get_encoder",
            ],
            "test_dilation_is_interpolation": ["make_dilated", "get_stages"],
            "test_names_of_downloads_are_refused_in_one_sentence": ["get_preprocessing_params", "get_preprocessing_fn"],
            "test_the_registry_has_the_encoder_among_smps_own": ["encoders", "get_encoder_names"],
            "test_flags_say_what_works": ["_is_torch_scriptable", "_is_torch_exportable", "_is_torch_compilable"],
        },
        left_out={"save_pretrained calls it, and its text is smp's own": ["generate_model_card"]},
    )  # fmt: skip
