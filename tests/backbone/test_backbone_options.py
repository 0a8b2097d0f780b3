"""The options of a backbone: they are checked once and never change, and backbones with other options share weights."""

import copy
import inspect
import pickle

import pytest
import torch
from builders import build_backbone, images
from builders_families import build_family

from tadp import TADPBackbone
from tadp.backbone import BackboneOptions
from tadp.errors import CaptionError, OptionError
from tadp.features import Features

NAMES = list(inspect.signature(TADPBackbone).parameters)[5:]


def same(features: Features, other: Features) -> bool:
    return all(torch.equal(a, b) for a, b in zip(features.maps, other.maps, strict=True))


def test_options_are_the_constructors_and_are_described_where_help_shows_them():
    assert list(inspect.signature(BackboneOptions).parameters) == NAMES
    assert "{options}" not in TADPBackbone.__doc__
    for name in NAMES:
        assert f"\n        {name}: " in inspect.getdoc(BackboneOptions).replace("\n    ", "\n        ")
        assert f"\n    {name}: " in inspect.getdoc(TADPBackbone)


def test_options_are_read_as_attributes_and_never_set(backbone):
    for name in NAMES:
        if name != "text_adapter":  # as an attribute of the backbone, this is the module
            assert getattr(backbone, name) == getattr(backbone.options, name)
            with pytest.raises(
                AttributeError, match=rf"backbone\.with_options\({name}=…\) gives a backbone with another"
            ):
                setattr(backbone, name, getattr(backbone, name))
    with pytest.raises(AttributeError):
        backbone.options = backbone.options
    with pytest.raises(AttributeError):
        backbone.options.timestep = 3


def test_they_write_themselves_as_json_and_read_that_again():
    options = build_backbone(timestep=[3, 5], pool_attention=["dog"], pool_synonyms={"dog": ["puppy"]}).options
    written = options.to_dict()
    assert written["timestep"] == [3, 5]
    assert written["attach_attention"] == [1, 2]
    assert written["pool_synonyms"] == {"dog": ["puppy"]}
    assert list(written) == NAMES
    assert BackboneOptions(**written) == options


def test_they_check_themselves(no_type_checker):
    options = build_backbone().options
    with pytest.raises(TypeError, match=r"scale_latents must be True or False; got 'no'"):
        options.changed(scale_latents="no")
    with pytest.raises(TypeError, match=r"default_text must be one string, or None; got int"):
        options.changed(default_text=3)
    with pytest.raises(TypeError, match=r"attach_attention must be a whole number; got 'a'"):
        options.changed(attach_attention="a")
    with pytest.raises(TypeError, match=r"pool_attention must be a list of names, and synonyms"):
        options.changed(pool_attention={"dog": ["puppy"]})
    with pytest.raises(TypeError, match=r"pool_attention: names must be a list of strings"):
        options.changed(pool_attention=True)
    with pytest.raises(TypeError, match=r"text_length must be a whole number"):
        options.changed(text_length="77")
    with pytest.raises(OptionError, match="text_length must be 65536 at most; got 65537"):
        options.changed(text_length=2**16 + 1)
    with pytest.raises(
        TypeError, match=r"unknown option 'timesteps'; a backbone has timestep, combine_timesteps, noise"
    ):
        options.changed(timesteps=3)


# Other options for the same weights


@torch.no_grad()
def test_other_options_share_the_weights_and_give_what_a_backbone_built_so_gives():
    backbone, pixels = build_backbone(), images(2, 64, 64)
    before = backbone(pixels, "a dog")
    other = backbone.with_options(attach_attention=(), record_attention=[2, 0], timestep=7)
    assert (other.unet, other.vae, other.text_encoder) == (backbone.unet, backbone.vae, backbone.text_encoder)
    assert list(other.state_dict()) == list(backbone.state_dict())
    built = build_backbone(attach_attention=(), record_attention=(0, 2), timestep=7)
    assert other.options == built.options
    assert other.feature_info == built.feature_info
    features = other(pixels, "a dog")
    assert same(features, built(pixels, "a dog"))
    assert features.attention.levels == (0, 2)
    assert same(backbone(pixels, "a dog"), before)
    assert backbone.with_options(text_length=None).text_length == 77


def test_what_trains_in_one_trains_in_both_and_modes_are_those_of_the_parts():
    backbone = build_backbone(attach_attention=()).train()
    other = backbone.with_options(record_attention=(1,))
    assert other.training
    other(images(1, 64, 64), "a dog").maps[0].square().mean().backward()
    assert backbone.unet.conv_in.weight.grad is not None
    other.freeze().eval()
    assert not any(parameter.requires_grad for parameter in backbone.unet.parameters())
    assert not backbone.unet.training


@torch.no_grad()
def test_the_captioner_is_taken_over_and_blocks_give_their_text_to_both():
    backbone, pixels = build_backbone().attach_captioner(lambda batch: ["red"] * len(batch)), images(1, 64, 64)
    other = backbone.with_options(attach_attention=())
    assert other.captioner is backbone.captioner
    assert other.source is backbone.source
    for opened in (backbone, other):
        with opened.conditioning("a cat"):
            assert same(other(pixels), other(pixels, "a cat"))
            assert same(backbone(pixels), backbone(pixels, "a cat"))
    other.attach_captioner(None)
    assert same(other(pixels), other(pixels, ""))
    assert same(backbone(pixels), backbone(pixels, "red"))
    strict = backbone.attach_captioner(None).with_options(default_text=None)
    with pytest.raises(CaptionError, match=r"default_text is None"):
        strict(pixels)
    backbone(pixels)


def test_weights_and_blocks_of_their_own_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"text_adapter has weights of its own.*load a backbone with text_adapter=True"
    ):
        build_backbone().with_options(text_adapter=True)
    joint = TADPBackbone.from_pretrained(build_family("SD 3 without T5", tmp_path / "model"), attach_attention=())
    taps = [int(name.split(".")[1]) for name in joint.layout.taps]
    with pytest.raises(
        ValueError, match=r"shared model is prepared for other blocks than .*load another backbone with blocks="
    ):
        joint.with_options(blocks=taps[::-1])
    with pytest.raises(ValueError, match=r"no attention at level 9"):
        joint.with_options(record_attention=(9,))


@torch.no_grad()
def test_copies_and_pickles_of_them_share_nothing():
    backbone, pixels = build_backbone(), images(1, 64, 64)
    other = backbone.with_options(attach_attention=())
    for twin in (copy.deepcopy(other), pickle.loads(pickle.dumps(other))):
        assert twin.options == other.options
        assert twin.unet is not backbone.unet
        assert same(twin(pixels, "a dog"), other(pixels, "a dog"))
        with backbone.conditioning("a cat"):
            assert same(twin(pixels), twin(pixels, ""))


@torch.no_grad()
def test_a_compiled_backbone_is_not_what_other_options_run():
    backbone = build_backbone()
    torch.nn.Module.compile(backbone, backend="eager")  # the whole call; backbone.compile() compiles parts
    other = backbone.with_options(attach_attention=())
    assert [level_map.shape[1] for level_map in other(images(1, 64, 64), "a dog").maps] == list(
        other.feature_info.channels
    )
