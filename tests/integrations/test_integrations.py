"""Models of each framework train on scenes with the backbone, and load from their own files unchanged."""

import copy
import sys

import pytest
import torch
from builders import build_backbone, build_folder, images
from integrations import BATCH, CLASSES, module, pixel_loss, train
from torch import nn

import tadp
from tadp.errors import CaptionError, ImageError, MissingExtraError
from tadp.heads import SegmentationHead
from tadp.integrations import Pyramid
from tadp.integrations.timm import TimmFeatures
from tadp.integrations.timm import register as register_timm

# These tests pass captions in conditioning() blocks, or look at shapes; test_call_text.py tests the warning.
pytestmark = pytest.mark.filterwarnings("ignore:built without text")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PIXELS, CAPTIONS = BATCH.images, BATCH.captions


@pytest.fixture(scope="module")
def backbone():
    """A backbone of this file, because adapters freeze the layers that they do not need."""
    return build_backbone()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small base model on disk with random weights, a U-Net like Stable Diffusion's and a full vocabulary."""
    return build_folder(tmp_path_factory.mktemp("base") / "sd")


def evaluated(model, call):
    model.eval()
    with torch.no_grad():
        return call()


# The pyramid


@torch.no_grad()
def test_maps_are_the_backbones_and_levels_keep_their_numbers(backbone):
    pixels = images(2, 72, 100)
    with backbone.conditioning("a dog"):
        plain, selected = Pyramid(backbone)(pixels), Pyramid(backbone, levels=(1, 3))(pixels)
        for stride4 in ("vae", "upsampled"):
            pyramid = Pyramid(backbone, levels=(1, 3), stride4=stride4, stride4_channels=12)
            fine, *levels = pyramid(pixels)
            assert fine.shape == (2, {"vae": 8, "upsampled": 12}[stride4], 18, 25)
            assert pyramid.feature_info.reduction == (4, 16, 64)
            assert [level_map.shape[1] for level_map in (fine, *levels)] == list(pyramid.feature_info.channels)
            assert all(torch.equal(a, b) for a, b in zip(levels, selected, strict=True))
    expected = backbone(pixels, "a dog").maps
    assert all(torch.equal(a, b) for a, b in zip(plain, expected, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(selected, expected[1::2], strict=True))


@torch.no_grad()
def test_the_vaes_map_is_what_its_encoder_computes(backbone):
    pixels, maps = images(1, 64, 128), []
    handle = backbone.vae.encoder.down_blocks[-2].resnets[-1].register_forward_hook(lambda *a: maps.append(a[2]))
    with torch.enable_grad():
        backbone.vae.encoder(2 * pixels - 1)  # in diffusers' order of layers
    handle.remove()
    features = backbone(pixels, "a dog", vae_map=True)
    torch.testing.assert_close(features.vae_map, maps[0].detach())
    assert backbone(pixels, "a dog").vae_map is None
    assert torch.equal(features.maps[0], backbone(pixels, "a dog").maps[0])
    fine = Pyramid(backbone, stride4="vae")(pixels)[0]
    groups = fine.unflatten(1, (4, -1)).flatten(2)
    torch.testing.assert_close(groups.mean(dim=2), torch.zeros(1, 4), atol=1e-4, rtol=0)
    torch.testing.assert_close(groups.std(dim=2), torch.ones(1, 4), atol=1e-2, rtol=0)


@torch.no_grad()
def test_normalised_images_are_brought_back(backbone):
    pixels = images(1, 64, 64)
    normalised = (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    for level_map, expected in zip(
        Pyramid(backbone, mean=MEAN, std=STD)(normalised), Pyramid(backbone)(pixels), strict=True
    ):
        torch.testing.assert_close(level_map, expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(ImageError, match=r"not in \[0, 1\]. Undo its normalisation: image \* std \+ mean"):
        Pyramid(backbone)(normalised)
    with pytest.raises(
        ImageError, match=r"with that undone, they range from .* instead of 0 to 1. Pass the mean and std"
    ):
        Pyramid(backbone, mean=MEAN, std=STD)(normalised * 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": (0, 4)}, r"no level 4; this backbone has levels 0 \(stride 8\), 1 \(stride 16\)"),
        ({"levels": ()}, r"levels must be one or more different levels, finest first; got \(\)"),
        ({"levels": (2, 0)}, r"levels must be one or more different levels, finest first"),
        ({"stride4": "unet"}, r"stride4 must be None, 'vae' or 'upsampled'; got 'unet'"),
        ({"mean": MEAN}, r"mean and std must be passed together"),
        ({"mean": MEAN, "std": (1.0, 0.0, 1.0)}, r"must be three numbers each, std above 0"),
    ],
)
def test_options_that_cannot_be_are_refused(no_type_checker, backbone, options, message):
    with pytest.raises(ValueError, match=message):
        Pyramid(backbone, **options)


def test_one_level_is_a_list_of_one(no_type_checker, backbone):
    with pytest.raises(TypeError, match=r"levels must be several numbers, such as \(0, 1\); got 2\. Pass \(2,\)"):
        Pyramid(backbone, levels=2)


def test_inputs_that_cannot_be_are_refused(backbone):
    pyramid = Pyramid(backbone)
    with pytest.raises(ImageError, match=r"7x64 pixels .* at least 8"):
        pyramid(images(1, 7, 64))
    with backbone.conditioning(["a dog"] * 3), pytest.raises(CaptionError, match=r"2 images but 3 captions"):
        pyramid(images(2, 64, 64))
    strict = Pyramid(build_backbone(default_text=None))
    with pytest.raises(CaptionError, match=r"no text for these images"):
        strict(images(1, 64, 64))


def test_plain_pytorch_needs_nothing(tmp_path):
    """A head of tadp on a pyramid with stride 4, saved by torch."""
    torch.manual_seed(0)
    backbone = tadp.TADPBackbone.from_pretrained("tadp-tiny")
    pyramid = Pyramid(backbone, stride4="upsampled", stride4_channels=16)
    head = SegmentationHead(pyramid.feature_info, num_classes=CLASSES, fpn_channels=16, channels=16)
    model = nn.ModuleDict({"pyramid": pyramid, "head": head})

    def logits():
        with backbone.conditioning(CAPTIONS):
            return head(pyramid(PIXELS))

    before = pyramid.upsampler.layers[0].weight.clone()
    losses = train(model, lambda: pixel_loss(logits()))
    assert losses[-1] < losses[0]
    assert not torch.equal(pyramid.upsampler.layers[0].weight, before)
    expected = evaluated(model, logits)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    model.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert torch.equal(evaluated(model, logits), expected)


# timm


class WrittenForTimm(nn.Module):
    """A model written for timm, without knowledge of tadp."""

    def __init__(self, name):
        super().__init__()
        import timm

        self.encoder = timm.create_model(name, pretrained=True, features_only=True, out_indices=(0, 1, 2))
        info = self.encoder.feature_info
        assert [stage["reduction"] for stage in info.get_dicts()] == info.reduction()
        self.laterals = nn.ModuleDict(
            {stage: nn.Conv2d(width, 16, 1) for stage, width in zip(info.module_name(), info.channels(), strict=True)}
        )
        self.predict = nn.Conv2d(16, CLASSES, 1)

    def forward(self, x):
        maps = self.encoder(x)
        assert isinstance(maps, list)
        pairs = zip(self.laterals.values(), maps, strict=True)
        return self.predict(
            sum(nn.functional.interpolate(layer(level_map), maps[0].shape[2:]) for layer, level_map in pairs)
        )


def test_code_for_timms_features_runs_unchanged(tmp_path):
    torch.manual_seed(0)
    backbone = tadp.TADPBackbone.from_pretrained("tadp-tiny")
    register_timm(Pyramid(backbone, mean=MEAN, std=STD), name="tadp_test")
    model = WrittenForTimm("tadp_test")
    normalised = (PIXELS - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    with backbone.conditioning(CAPTIONS):
        losses = train(model, lambda: pixel_loss(model(normalised)))
        expected = evaluated(model, lambda: model(normalised))
    assert losses[-1] < losses[0]
    torch.save(model.state_dict(), tmp_path / "model.pt")
    register_timm(Pyramid(tadp.TADPBackbone.from_pretrained("tadp-tiny"), mean=MEAN, std=STD), name="tadp_test")
    again = WrittenForTimm("tadp_test").eval()
    again.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    with torch.no_grad(), again.encoder.pyramid.backbone.conditioning(CAPTIONS):
        assert torch.equal(again(normalised), expected)
    with pytest.raises(ValueError, match=r"returns features, not classes; pass features_only=True"):
        __import__("timm").create_model("tadp_test")


def test_timms_own_models_and_their_options_are_left_alone(backbone):
    import timm

    before = timm.create_model("resnet18")
    with pytest.raises(ValueError, match=r"timm has a model 'resnet18' of its own; choose another name"):
        register_timm(backbone, name="resnet18")
    assert type(timm.create_model("resnet18")) is type(before)
    for _ in range(2):  # a name that tadp registered may be registered again
        register_timm(backbone, name="mine")
    with pytest.raises(ValueError, match=r"images of 3 channels; got in_chans=1"):
        timm.create_model("mine", features_only=True, in_chans=1)


def test_timms_options_do_what_they_say_or_are_refused(no_type_checker, backbone):
    import timm

    register_timm(Pyramid(backbone, mean=MEAN, std=STD), name="normalised")
    register_timm(backbone, name="plain")
    for name, mean, std in (("normalised", MEAN, STD), ("plain", (0, 0, 0), (1, 1, 1))):
        features = timm.create_model(name, features_only=True, num_classes=0, output_stride=64)
        config = timm.data.resolve_model_data_config(features)
        assert (config["mean"], config["std"]) == (mean, std)
    own = build_backbone()
    register_timm(own, name="own")
    timm.create_model("own", features_only=True).set_grad_checkpointing()
    assert own.unet.is_gradient_checkpointing
    with pytest.raises(ValueError, match=r"its maps have strides \[8, 16, 32, 64\]; got output_stride=16"):
        timm.create_model("plain", features_only=True, output_stride=16)
    with pytest.raises(
        TypeError, match=r"'plain' has no option 'out_indicies'; it takes features_only and out_indices"
    ):
        timm.create_model("plain", features_only=True, out_indicies=(0,))
    with pytest.raises(TypeError, match=r"out_indices must be numbers, such as \(0, 1\); got '01'"):
        timm.create_model("plain", features_only=True, out_indices="01")


def test_what_was_never_normalised_is_refused_where_mean_and_std_are_undone(no_type_checker, backbone):
    pyramid = Pyramid(backbone, mean=torch.tensor(MEAN), std=torch.tensor(STD))
    assert pyramid.mean == pytest.approx(MEAN)
    for pixels, kind in (
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), r"a tensor of torch.uint8 and shape \(1, 3, 64, 64\)"),
        (torch.zeros(1, 1, 64, 64), r"a tensor of torch.float32 and shape \(1, 1, 64, 64\)"),
        (["photo.jpg"], "a list"),
    ):
        with pytest.raises(ImageError, match=rf"must be a float tensor \(B, 3, H, W\) normalised by them; got {kind}"):
            pyramid(pixels)


def test_one_mean_for_all_channels_is_refused(no_type_checker, backbone):
    with pytest.raises(TypeError, match=r"must be three numbers each, one per channel; got mean 0.5, std 0.5"):
        Pyramid(backbone, mean=0.5, std=0.5)


def test_the_name_of_a_model_is_no_backbone(no_type_checker):
    for make in (Pyramid, TimmFeatures, register_timm):
        with pytest.raises(TypeError, match=r"backbone must be a TADPBackbone; got 'tadp-tiny'"):
            make("tadp-tiny")


def test_out_indices_are_timms(backbone):
    pixels = images(1, 64, 64)
    for indices, strides in (((1, 3), [16, 64]), (2, [32, 64]), ((-1,), [64]), (None, [8, 16, 32, 64])):
        features = TimmFeatures(backbone, out_indices=indices)
        assert features.feature_info.reduction() == strides
        with torch.no_grad():
            assert [level_map.shape[1] for level_map in features(pixels)] == features.feature_info.channels()
    assert features.feature_info.channels(1) == features.feature_info[1]["num_chs"]
    with pytest.raises(ValueError, match=r"out_indices must be among the 4 maps, 0 to 3; got \[0, 4\]"):
        TimmFeatures(backbone, out_indices=(0, 4))


# segmentation_models_pytorch


@pytest.fixture
def smp(folder):
    from tadp.integrations.smp import register

    register(folder, name="tadp_test")
    return __import__("segmentation_models_pytorch")


@pytest.mark.parametrize("kind", ["Unet", "FPN", "UPerNet", "DeepLabV3Plus"])
def test_smps_models_train_and_come_back(smp, kind, tmp_path):
    torch.manual_seed(0)
    model = getattr(smp, kind)("tadp_test", encoder_weights=None, classes=CLASSES)
    pixels, captions = PIXELS, ["a dog", "a red cat"]

    def logits(of):
        with of.encoder.pyramid.backbone.conditioning(captions):
            return of(pixels)

    assert logits(model).shape == (2, CLASSES, 64, 64)
    losses = train(model, lambda: pixel_loss(logits(model)), lr=1e-2)
    assert losses[-1] < losses[0]
    expected = evaluated(model, lambda: logits(model))
    model.save_pretrained(tmp_path / "model")
    again = smp.from_pretrained(tmp_path / "model").eval()
    with torch.no_grad():
        torch.testing.assert_close(logits(again), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_smps_rules_of_channels_and_depth(smp, folder):
    from tadp.integrations.smp import SmpEncoder

    for depth, strides in ((3, (1, 2, 4, 8)), (4, (1, 2, 4, 8, 16)), (5, (1, 2, 4, 8, 16, 32))):
        encoder = smp.encoders.get_encoder("tadp_test", depth=depth, weights=None)
        maps = encoder(images(1, 64, 96))
        assert [level_map.shape[1] for level_map in maps] == encoder.out_channels
        assert [tuple(level_map.shape[2:]) for level_map in maps] == [
            (64 // stride, 96 // stride) for stride in strides
        ]
        assert encoder.output_stride == strides[-1]
    dilated = smp.encoders.get_encoder("tadp_test", weights=None, output_stride=16)
    assert dilated(images(1, 64, 64))[-1].shape[2:] == (4, 4)
    with pytest.raises(ValueError, match=r"takes images of 3 channels; got in_channels=4"):
        smp.Unet("tadp_test", encoder_weights=None, in_channels=4)
    with pytest.raises(ValueError, match=r"depth must be 3, 4 or 5, for strides up to 8, 16 or 32; got 6"):
        SmpEncoder(base_model=folder, depth=6)
    with pytest.raises(ValueError, match=r"output_stride must be 8, 16 or 32; got 4"):
        SmpEncoder(base_model=folder, output_stride=4)


# torchvision

FEW_PROPOSALS = {"rpn_post_nms_top_n_train": 40, "rpn_post_nms_top_n_test": 40, "box_batch_size_per_image": 32}
SIDES = {"min_size": 64, "max_size": 64}
DETECTORS = {
    "faster_rcnn": ("FasterRCNN", {"box_detections_per_img": 5, **FEW_PROPOSALS, **SIDES}),
    "mask_rcnn": ("MaskRCNN", {"box_detections_per_img": 5, **FEW_PROPOSALS, **SIDES}),
    "keypoint_rcnn": ("KeypointRCNN", {"box_detections_per_img": 5, **FEW_PROPOSALS, **SIDES, "num_keypoints": 2}),
    "retinanet": ("RetinaNet", {"detections_per_img": 5, **SIDES}),
    "fcos": ("FCOS", {"detections_per_img": 5, **SIDES}),
    "ssd": ("SSD", {"detections_per_img": 5, "size": (64, 64)}),
}


def corners(boxes):
    """The top left and bottom right corners of boxes as visible keypoints, (N, 2, 3)."""
    return torch.cat([boxes.view(-1, 2, 2), boxes.new_full((len(boxes), 2, 1), 1)], dim=2)


@pytest.mark.parametrize("kind", DETECTORS)
def test_torchvisions_detectors_train_and_come_back(kind, folder, tmp_path):
    from torchvision.models import detection

    from tadp.integrations.torchvision import DetectionBackbone

    class_name, own = DETECTORS[kind]

    def build():
        channels = 32 if kind == "fcos" else 8  # FCOS normalises 32 groups
        backbone = DetectionBackbone(tadp.TADPBackbone.from_pretrained(folder), out_channels=channels)
        options = own | backbone.options(kind, num_classes=CLASSES)
        if kind == "keypoint_rcnn":  # smaller than torchvision's 8 layers of 512 channels
            module = detection.keypoint_rcnn
            options |= {
                "keypoint_head": module.KeypointRCNNHeads(8, (8,)),
                "keypoint_predictor": module.KeypointRCNNPredictor(8, options.pop("num_keypoints")),
            }
        return getattr(detection.ssd if kind == "ssd" else detection, class_name)(
            backbone, num_classes=CLASSES, **options
        )

    torch.manual_seed(0)
    model = build()
    targets = []
    for boxes, mask in zip(BATCH.boxes, BATCH.masks, strict=True):
        labels = boxes.labels + 1
        masks = mask == labels[:, None, None]
        targets.append({"boxes": boxes.boxes, "labels": labels, "masks": masks, "keypoints": corners(boxes.boxes)})
    batches = []
    model.backbone.pyramid.register_forward_pre_hook(lambda _, inputs: batches.append(inputs[0]))

    def loss():
        with model.backbone.pyramid.backbone.conditioning(["a dog", "a red cat"]):
            return sum(model(list(PIXELS), copy.deepcopy(targets)).values())

    losses = train(model, loss, steps=4)
    assert min(losses[1:]) < losses[0]
    torch.testing.assert_close(batches[0], PIXELS)  # neither normalised nor resized

    def call(of):
        (of.roi_heads if "rcnn" in kind else of).score_thresh = 0.0
        with of.backbone.pyramid.backbone.conditioning("a dog"):
            return of(list(PIXELS[:, :, :56, :40]))

    expected = evaluated(model, lambda: call(model))
    torch.save(model.state_dict(), tmp_path / "model.pt")
    again = build().eval()
    again.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    for detections, expected_detections in zip(evaluated(again, lambda: call(again)), expected, strict=True):
        assert detections.keys() == expected_detections.keys()
        assert len(detections["boxes"])
        assert all(torch.equal(detections[name], expected_detections[name]) for name in detections)


def test_a_detectors_options_are_for_those_known(backbone):
    from tadp.integrations.torchvision import DetectionBackbone

    maps = DetectionBackbone(backbone)
    with pytest.raises(ValueError, match=r"one of faster_rcnn, mask_rcnn, keypoint_rcnn, .*, fcos, ssd; got 'yolo'"):
        maps.options("yolo")
    with pytest.raises(ValueError, match=r"SSD's options include its head; pass num_classes"):
        maps.options("ssd")


# What is missing


@pytest.mark.parametrize(
    ("package", "call", "message"),
    [
        ("timm", lambda b: TimmFeatures(b), r"this needs timm, .*: pip install 'tadp\[timm\]'"),
        ("segmentation_models_pytorch", lambda b: module("smp").register(), r"pip install 'tadp\[smp\]'"),
        ("torchvision", lambda b: module("torchvision").DetectionBackbone(b), r"pip install 'tadp\[detection\]'"),
        ("detectron2", lambda b: module("detectron2").backbone_of(b), r"needs detectron2, .* it is not on PyPI"),
        (
            "mmengine",
            lambda b: module("mmseg").register(),
            r"this needs mmengine, .* pip install mmengine mmsegmentation",
        ),
    ],
)
def test_a_missing_package_is_named_with_what_to_do(package, call, message, backbone, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=message):
        call(backbone)


# detectron2 and mmseg, with the stand-ins of conftest.py


def test_detectron2s_contract(detectron2, backbone):
    wrapped = module("detectron2").backbone_of(Pyramid(backbone, stride4="vae"), out_features=("stride4", "stride16"))
    assert isinstance(wrapped, detectron2.Backbone)
    assert wrapped.size_divisibility == 64
    shapes = wrapped.output_shape()
    with torch.no_grad():
        maps = wrapped(images(2, 64, 128))
    assert list(maps) == list(shapes) == ["stride4", "stride16"]
    for name, level_map in maps.items():
        stride = shapes[name].stride
        assert level_map.shape == (2, shapes[name].channels, 64 // stride, 128 // stride)
    module("detectron2").register(backbone)
    built = detectron2.BACKBONE_REGISTRY["build_tadp_backbone"](None, None)
    assert list(built.output_shape()) == ["stride8", "stride16", "stride32", "stride64"]
    with pytest.raises(ValueError, match=r"no map 'res2'; this backbone has stride8, stride16, stride32, stride64"):
        module("detectron2").backbone_of(backbone, out_features=("res2",))


def test_mmsegs_contract(mmseg, folder, backbone):
    module("mmseg").register()
    module("mmseg").register()
    built = mmseg.MODELS.build(
        {
            "type": "TADP",
            "base_model": str(folder),
            "out_indices": (0, 2),
            "pyramid": {"stride4": "vae"},
            "default_text": "a dog",
        }
    )
    with torch.no_grad():
        maps = built(images(1, 64, 64))
    assert isinstance(maps, tuple)
    assert [level_map.shape[1] for level_map in maps] == built.out_channels
    assert [level_map.shape[2] for level_map in maps] == [16, 4]
    assert built.pyramid.backbone.default_text == "a dog"
    with pytest.raises(ValueError, match=r"out_indices must be from 0 to 3; got \(4,\)"):
        mmseg.MODELS.build({"type": "TADP", "base_model": str(folder), "out_indices": (4,)})
