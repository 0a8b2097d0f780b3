"""`levels=` computes only some maps: they are equal bit for bit, and what comes after them neither runs nor trains."""

import copy

import pytest
import torch
from builders import build_backbone, build_unet, embeddings, images, latents
from builders_families import FAMILIES, build_family
from ddp_worker import train_one_step
from PIL import Image
from running import fork_server
from safetensors.torch import load_file
from torch.multiprocessing.spawn import start_processes

from tadp import Conditioning, FeatureInfo, Features, TADPBackbone
from tadp.extract import extract_images
from tadp.integrations import Pyramid
from tadp.tasks import TADPForDepthEstimation, TADPForObjectDetection, TADPForSemanticSegmentation

SETS = [(0,), (1,), (2,), (3,), (0, 2), (1, 2), (2, 3)]
ATTENTION = {
    "attached": {"attach_attention": (1, 2)},
    "detached": {"attach_attention": (1, 2), "detach_attention": True},
    "recorded": {"attach_attention": (), "record_attention": (0, 1, 2)},
    "of each head": {"record_attention": (0, 1), "record_heads": True},
    "none": {"attach_attention": ()},
}


@pytest.fixture(scope="module")
def families(tmp_path_factory) -> dict[str, TADPBackbone]:
    """One backbone per family, which attaches and records attention; tests must not change them."""
    folder = tmp_path_factory.mktemp("families")
    backbones = {family: TADPBackbone.from_pretrained(build_family(family, folder / family)) for family in FAMILIES}
    backbones["SD 1.x"] = build_backbone(unet=build_unet(layers_per_block=2))
    return {
        family: backbone.with_options(record_attention=backbone.layout.attention_levels)
        for family, backbone in backbones.items()
    }


def with_attention(backbone: TADPBackbone, kind: str) -> TADPBackbone:
    """The backbone with options of `ATTENTION`, at those of the levels that have attention."""
    options, known = {"record_attention": ()} | ATTENTION[kind], backbone.layout.attention_levels
    return backbone.with_options(
        **{
            name: value if isinstance(value, bool) else [k for k in value if k in known]
            for name, value in options.items()
        }
    )


def same(part: Features, full: Features) -> bool:
    """Whether `part` has the maps and the attention of its levels, equal bit for bit to those of `full`."""
    attended = [] if full.attention is None else [level for level in full.attention.levels if level in part.levels]
    assert (part.attention.levels if part.attention else ()) == tuple(attended)
    return (
        all(torch.equal(level_map, full.maps[level]) for level, level_map in part.by_level.items())
        and all(torch.equal(part.attention.at(level), full.attention.at(level)) for level in attended)
        and (
            not attended
            or all(torch.equal(heads, full.attention.heads(k)) for k, heads in part.attention.head_maps.items())
        )
    )


def weighted(tensors: list[torch.Tensor]) -> torch.Tensor:
    """A scalar whose gradient reaches everything that the tensors depend on."""
    noise = torch.Generator().manual_seed(3)
    return torch.stack([(tensor * torch.randn(tensor.shape, generator=noise)).sum() for tensor in tensors]).sum()


def influential(
    backbone: TADPBackbone, pixels: torch.Tensor, levels: tuple[int, ...], *, attention: bool
) -> dict[str, torch.Tensor]:
    """Parameters on which maps and, if asked, attention depend in a full pass, by autograd, with their gradients."""
    twin = copy.deepcopy(backbone)
    twin.unet.requires_grad_(True)
    features = twin(pixels, "a dog")
    wanted = [features.maps[level] for level in levels]
    if attention and features.attention is not None:
        wanted += [features.attention.at(level) for level in features.attention.levels if level in levels]
    weighted(wanted).backward()
    return {name: parameter.grad for name, parameter in twin.unet.named_parameters() if parameter.grad is not None}


@torch.no_grad()
def layers_run(backbone: TADPBackbone, pixels: torch.Tensor, levels: tuple[int, ...]) -> set[str]:
    """The layers with weights of the denoiser that run in a call."""
    names, ran = {name.rpartition(".")[0] for name, _ in backbone.unet.named_parameters()}, set()
    hooks = [
        backbone.unet.get_submodule(name).register_forward_hook(lambda *_, name=name: ran.add(name)) for name in names
    ]
    backbone(pixels, "a dog", levels=levels)
    for hook in hooks:
        hook.remove()
    return ran


def sets_of(backbone: TADPBackbone) -> list[tuple[int, ...]]:
    return [levels for levels in SETS if max(levels) < len(backbone.layout.channels)]


def coarse(**options) -> TADPBackbone:
    return build_backbone(levels=(2, 3), **options)


# The pass


@torch.no_grad()
@pytest.mark.parametrize("family", [*FAMILIES, "SD 1.x"])
def test_maps_and_attention_are_those_of_a_full_pass_bit_for_bit(families, family):
    backbone, pixels, captions = families[family], images(2, 70, 92), ["a dog", "a red cat"]
    full = backbone(pixels, captions)
    assert full.levels == tuple(range(len(full.maps)))
    for levels in sets_of(backbone):
        part = backbone(pixels, captions, levels=levels)
        assert part.levels == levels
        assert part.image_size == full.image_size
        assert same(part, full)
        assert [level_map.shape[1] for level_map in part.maps] == [
            backbone.feature_info.channels[level] for level in levels
        ]


@pytest.mark.parametrize("family", [*FAMILIES, "SD 1.x"])
def test_what_comes_after_the_last_needed_layer_is_filled_with_nan(families, family):
    """It is everything on which autograd says that neither the maps nor their attention depend."""
    backbone, pixels = copy.deepcopy(families[family]), images(1, 64, 64)
    weights = {name: parameter.detach().clone() for name, parameter in backbone.unet.named_parameters()}
    with torch.no_grad():
        full = backbone(pixels, "a dog")
    filled = []
    for levels in sets_of(backbone):
        needed = influential(backbone, pixels, levels, attention=True)
        with torch.no_grad():
            for name, parameter in backbone.unet.named_parameters():
                parameter.copy_(weights[name] if name in needed else torch.full_like(parameter, torch.nan))
            filled.append(len(weights) - len(needed))
            assert same(backbone(pixels, "a dog", levels=levels), full), levels
            for name, parameter in backbone.unet.named_parameters():
                parameter.copy_(weights[name])
    assert max(filled) > 1.3 * min(filled)


@pytest.mark.parametrize("family", ["SD 1.x", "SD 2.x", "SDXL"])
@pytest.mark.parametrize("attention", ATTENTION)
def test_no_layer_of_a_unet_runs_in_vain(families, family, attention):
    backbone, pixels = with_attention(copy.deepcopy(families[family]), attention), images(1, 64, 64)
    for levels in sets_of(backbone):
        needed = influential(backbone.with_options(detach_attention=False), pixels, levels, attention=True)
        expected = {name.rpartition(".")[0] for name in needed}
        assert layers_run(backbone, pixels, levels) == expected, levels


@torch.no_grad()
def test_a_pass_ends_early_in_several_passes_half_precision_and_with_a_mask():
    scheduler = {"beta_schedule": "linear"}
    several = {"timestep": (1, 261), "noise_samples": 2, "combine_timesteps": "concatenate", "scheduler": scheduler}
    for options in (several, {"record_attention": (2,), "record_heads": True}):
        backbone, pixels = build_backbone(**options), images(1, 64, 64)
        assert same(backbone(pixels, "a dog", levels=(2, 3)), backbone(pixels, "a dog"))
    half, text = build_backbone().to(torch.bfloat16), build_backbone().encode_text("a dog", mask_padding=True)
    assert same(half(images(1, 64, 64), text, levels=(2,)), half(images(1, 64, 64), text))
    sample, text = latents(1, 8, 8), Conditioning(embeddings(1, 77))
    assert same(half.extract(sample, text, levels=(1, 2)), half.extract(sample, text))


# Training


@pytest.mark.parametrize("family", [*FAMILIES, "SD 1.x"])
@pytest.mark.parametrize("attention", ["attached", "detached", "recorded", "none"])
def test_under_the_option_exactly_the_layers_train_on_which_a_map_depends(families, family, attention):
    """So that DDP never waits for a gradient."""
    base, pixels = with_attention(families[family], attention), images(1, 64, 64)
    for levels in [(level,) for level in base.chosen_levels()] + [(1, 2)]:
        recorded = [level for level in base.record_attention if level in levels]
        backbone = copy.deepcopy(base).with_options(levels=levels, record_attention=recorded).unfreeze().train()
        backbone.enable_gradient_checkpointing(levels[0] % 2 == 0)
        weighted(list(backbone(pixels, "a dog").maps)).backward()
        trainable = {name for name, parameter in backbone.unet.named_parameters() if parameter.requires_grad}
        assert trainable == {name for name, parameter in backbone.unet.named_parameters() if parameter.grad is not None}
        expected = influential(base, pixels, levels, attention=False)
        assert trainable <= expected.keys()
        extra = {name.partition(".attn.")[2].partition(".")[0] for name in expected.keys() - trainable}
        assert extra <= {"add_q_proj", "norm_added_q"}  # the text's own rows of a softmax, on which no map depends
        assert not any(expected[name].any() for name in expected.keys() - trainable)


def test_the_option_freezes_and_neither_the_argument_nor_with_options_does():
    def trainable(backbone: TADPBackbone) -> list[str]:
        return [name for name, parameter in backbone.named_parameters() if parameter.requires_grad]

    backbone = build_backbone()
    everything = trainable(backbone)
    backbone(images(1, 64, 64), "a dog", levels=(2, 3))
    narrow = backbone.with_options(levels=(2, 3))
    assert trainable(backbone) == trainable(narrow) == everything
    built = coarse()
    assert set(trainable(built)) < set(everything)
    assert trainable(narrow.unfreeze()) == trainable(built)
    assert trainable(built.freeze()) == []
    assert trainable(built.unfreeze()) == trainable(narrow)
    assert trainable(built.with_options(levels=None).unfreeze()) == everything


@pytest.mark.parametrize("family", ["SD 1.x", "SDXL", "SD 3", "FLUX"])
def test_gradients_are_those_of_a_full_pass_also_with_checkpointing(families, family):
    pixels, levels = images(1, 64, 64), (1, 2)
    gradients = []
    for checkpointed, argument in ((False, None), (False, levels), (True, levels)):
        backbone = copy.deepcopy(families[family]).train().enable_gradient_checkpointing(checkpointed)
        features = backbone(pixels, "a dog", levels=argument)
        attention = [features.attention.at(level) for level in levels]
        weighted([*(features.by_level[level] for level in levels), *attention]).backward()
        gradients.append({name: p.grad for name, p in backbone.unet.named_parameters() if p.grad is not None})
    full, early, saving = gradients
    assert full.keys() == early.keys() == saving.keys()
    for name, gradient in full.items():
        torch.testing.assert_close(early[name], gradient, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(saving[name], early[name], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_two_processes_train_with_plain_ddp(tmp_path):
    """Without `find_unused_parameters`, DDP fails in the second pass if the first left a parameter without gradient."""
    fork_server()
    options = {"attach_attention": (1, 2), "levels": (2, 3)}
    start_processes(train_one_step, args=(2, str(tmp_path), options), nprocs=2, start_method="forkserver")
    (world, gradients), (_, others) = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert world == 2
    assert gradients.keys() == others.keys()
    assert all(torch.equal(gradient, others[name]) for name, gradient in gradients.items())
    assert not any("up_blocks.3" in name for name in gradients)


# What follows from the option


def test_feature_info_and_everything_that_describes_a_backbone_follow():
    backbone = coarse()
    assert backbone.levels == (2, 3)
    assert backbone.feature_info == FeatureInfo(channels=(16 + 77, 16), reduction=(32, 64))
    assert backbone.strides == (8, 16, 32, 64)
    assert "levels: 2 (stride 32, 16 + 77 channels), 3 (stride 64, 16 channels)\n" in repr(backbone)
    assert "attached attention: level 2," in repr(backbone)
    assert build_backbone(levels=(3,), text_length=None).feature_info == FeatureInfo((16,), (64,))
    concatenated = coarse(timestep=(1, 5), combine_timesteps="concatenate", pool_attention=["dog", "cat"])
    assert concatenated.feature_info.channels == (2 * 16 + 2, 2 * 16)


@torch.no_grad()
def test_a_saved_backbone_keeps_the_option(tmp_path):
    backbone, pixels = coarse(), images(1, 70, 92)
    expected = backbone(pixels, "a dog")
    assert same(expected, build_backbone()(pixels, "a dog"))
    backbone.save_pretrained(tmp_path / "saved")
    again = TADPBackbone.from_pretrained(tmp_path / "saved")
    assert again.levels == (2, 3)
    assert [p.requires_grad for p in again.unet.parameters()] == [p.requires_grad for p in backbone.unet.parameters()]
    assert same(again(pixels, "a dog", levels=(3,)), build_backbone()(pixels, "a dog"))
    everything = TADPBackbone.from_pretrained(tmp_path / "saved", levels=None)
    assert same(expected, everything(pixels, "a dog"))
    assert len(everything(pixels, "a dog").maps) == 4


@torch.no_grad()
def test_tiles_of_some_levels_are_those_of_all():
    backbone, pixels = build_backbone(record_attention=(0, 2)), images(1, 192, 128)
    full = backbone.tiled(pixels, "a dog", tile_px=128, overlap_px=64)
    assert same(backbone.tiled(pixels, "a dog", tile_px=128, overlap_px=64, levels=(1, 2)), full)
    narrow = coarse().tiled(pixels, "a dog", tile_px=128, overlap_px=64)
    assert torch.equal(narrow.maps[0], full.maps[2])
    with pytest.raises(ValueError, match=r"no level 1; this backbone has levels 2 \(stride 32\), 3 \(stride 64\)"):
        coarse().tiled(pixels, "a dog", tile_px=128, overlap_px=64, levels=(1, 2))


TASKS = [
    (TADPForSemanticSegmentation, {"class_names": ["ground", "dog"], "window_px": 64}),
    (TADPForDepthEstimation, {"max_depth_m": 20.0, "window_px": 64}),
    (TADPForObjectDetection, {"class_names": ["dog"], "image_px": 64}),
]


@pytest.mark.parametrize(("kind", "options"), TASKS, ids=["segmentation", "depth", "detection"])
@pytest.mark.parametrize("tune", ["all", "lora"])
def test_a_task_model_is_built_for_the_levels_trains_and_comes_back(kind, options, tune, tmp_path):
    coarse().save_pretrained(tmp_path / "base")
    torch.manual_seed(0)
    model = kind(TADPBackbone.from_pretrained(tmp_path / "base", levels=(1, 2)), tune=tune, **options).train()
    assert model.head.feature_info.reduction == (16, 32)
    weighted(list(model.features(images(2, 64, 64), "a dog").maps)).backward()
    for name, parameter in model.backbone.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), name
    model.eval().save_pretrained(tmp_path / "model")
    again = kind.from_pretrained(tmp_path / "model")
    assert again.backbone.levels == (1, 2)
    assert repr(again.predict(images(1, 64, 96), "a dog")) == repr(model.predict(images(1, 64, 96), "a dog"))


@pytest.fixture
def asked(monkeypatch) -> list[list[int]]:
    """The levels that each call of a backbone asked for."""
    calls, forward = [], TADPBackbone.forward
    monkeypatch.setattr(
        TADPBackbone, "forward", lambda *parts, **options: calls.append(options["levels"]) or forward(*parts, **options)
    )
    return calls


@torch.no_grad()
def test_a_pyramid_computes_only_what_is_asked_of_it(asked):
    backbone, pixels = build_backbone(default_text="a dog"), images(1, 64, 64)
    full = Pyramid(backbone, stride4="upsampled", stride4_channels=4)
    expected = full(pixels)
    for levels, indices, computed in (((1, 3), None, [0, 1, 3]), ((1, 3), (2, 1), [1, 3]), ((2, 3), (0,), [0])):
        pyramid = Pyramid(backbone, levels=levels, stride4="upsampled", stride4_channels=4)
        pyramid.upsampler.load_state_dict(full.upsampler.state_dict())
        maps = [expected[0], *(expected[1 + level] for level in levels)]
        wanted = maps if indices is None else [maps[index] for index in indices]
        assert all(torch.equal(a, b) for a, b in zip(pyramid(pixels, indices=indices), wanted, strict=True))
        assert asked[-1] == computed
    pyramid = Pyramid(coarse(default_text="a dog"), stride4="vae")
    assert pyramid.feature_info == FeatureInfo((8, 16 + 77, 16), (4, 32, 64))
    assert all(torch.equal(a, b) for a, b in zip(pyramid(pixels)[1:], expected[3:], strict=True))
    assert torch.equal(pyramid(pixels, indices=(0,))[0], pyramid(pixels)[0])
    with pytest.raises(
        ValueError, match=r"enlarges level 0, but the backbone has levels \(2, 3\); load it with level 0"
    ):
        Pyramid(coarse(), stride4="upsampled")
    with pytest.raises(ValueError, match=r"no level 1; this backbone has levels 2 \(stride 32\), 3 \(stride 64\)"):
        Pyramid(coarse(), levels=(1, 2))


@pytest.mark.parametrize("tiling", [{}, {"tile_px": 64, "overlap_px": 0}])
@pytest.mark.parametrize(
    ("options", "arguments", "names", "computed"),
    [
        ({}, {"levels": [3]}, {"map.3", "attention.1", "attention.2"}, [1, 2, 3]),
        ({"attach_attention": ()}, {"levels": [3, 2]}, {"map.2", "map.3"}, [2, 3]),
        ({"levels": (2, 3)}, {}, {"map.2", "map.3", "attention.2"}, [2, 3]),
    ],
)
def test_extraction_computes_the_levels_that_it_writes(options, arguments, names, computed, tiling, tmp_path, asked):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "red.png")
    images = extract_images(
        build_backbone(**options), tmp_path / "red.png", tmp_path / "out", captions="a dog", model="x",
        **arguments, **tiling,
    )  # fmt: skip
    (outcome,) = images
    assert set(load_file(tmp_path / "out" / "red.safetensors")) == names
    assert outcome.record["strides"] == [8 << level for level in range(4) if f"map.{level}" in names]
    assert [list(levels) for levels in asked] == [computed]


# Wrong levels


@pytest.mark.parametrize(
    ("levels", "error", "message"),
    [
        ({2, 3}, TypeError, r"levels must have a fixed order; got a set"),
        (2, TypeError, r"levels must be several numbers, such as \(0, 1\); got 2\. Pass \(2,\)\."),
        (True, TypeError, r"levels must be several numbers, such as \(0, 1\); got True\."),
        ("23", TypeError, r"levels must be several numbers, such as \(0, 1\); got '23'\."),
        ((1, True), TypeError, r"each of levels must be a whole number; got True \(bool\)"),
        ((2.0,), TypeError, r"each of levels must be a whole number; got 2\.0 \(float\)"),
        ((), ValueError, r"levels must be one or more different levels, finest first; got \(\)"),
        ((3, 2), ValueError, r"levels must be one or more different levels, finest first; got \(3, 2\)"),
        ((2, 2), ValueError, r"levels must be one or more different levels, finest first; got \(2, 2\)"),
        ((2, 4), ValueError, r"no level 4; this backbone has levels 0 \(stride 8\), .*, 3 \(stride 64\)"),
        ((-1, 0), ValueError, r"no level -1; this backbone has levels 0 \(stride 8\)"),
    ],
)
def test_wrong_levels_are_refused_everywhere(backbone, levels, error, message, no_type_checker):
    for call in (
        lambda: build_backbone(levels=levels),
        lambda: backbone.with_options(levels=levels),
        lambda: backbone(images(1, 64, 64), "a dog", levels=levels),
        lambda: backbone.extract(latents(1, 8, 8), "a dog", levels=levels),
        lambda: backbone.tiled(images(1, 64, 64), "a dog", tile_px=64, overlap_px=0, levels=levels),
        lambda: Pyramid(backbone, levels=levels),
    ):
        with pytest.raises(error, match=message):
            call()


def test_attention_that_would_not_be_computed_is_refused_or_named():
    with pytest.raises(ValueError, match=r"record_attention has level 1, but levels=\(2, 3\) leaves it out\. Add it"):
        coarse(record_attention=(1, 2))
    with pytest.raises(ValueError, match=r"record_heads needs levels to record"):
        build_backbone(levels=(3,), record_heads=True)
    with pytest.raises(ValueError, match=r"no attention at level 9"):
        coarse(attach_attention=(9,))
    attention = coarse()(images(1, 64, 64), "a dog").attention
    with pytest.raises(ValueError, match=r"no attention at level 1; recorded: 2\. .* include 1 in levels= if you pass"):
        attention.at(1)
    assert coarse(attach_attention=())(images(1, 64, 64), "a dog").attention is None
    with pytest.raises(ValueError, match=r"no level 1; this backbone has levels 2 \(stride 32\)"):
        coarse()(images(1, 64, 64), "a dog", levels=(1,))
