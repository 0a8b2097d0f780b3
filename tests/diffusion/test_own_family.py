"""A family of base models defined outside the package: a small denoiser of a new kind, added with `register`."""

import json
from dataclasses import replace
from typing import Any

import jaxtyping
import pytest
import torch
import torch.nn.functional as F
from builders import build_text_encoder, build_tokenizer, build_vae, images
from torch import nn

import tadp
from tadp.diffusion.families import Family, Layout, family_of, register
from tadp.errors import ModelError
from tadp.export import to_program
from tadp.modifiers import CaptionModifier
from tadp.tasks import TADPForSemanticSegmentation

LATENTS, WORDS, CHANNELS = 6, 20, (10, 12)  # two levels, whereas the built-in families have three or four


class Sketch(nn.Module):
    """Two convolutions with attention to the text in between; not a diffusers class."""

    def __init__(self, latents: int, words: int, channels: list[int]):
        super().__init__()
        self.shape = {"latents": latents, "words": words, "channels": list(channels)}
        fine, coarse = channels
        self.enter = nn.Conv2d(latents, fine, 3, padding=1)
        self.down = nn.Conv2d(fine, coarse, 3, stride=2, padding=1)
        self.to_q, self.to_k, self.to_v = nn.Linear(coarse, 8), nn.Linear(words, 8), nn.Linear(words, coarse)
        self.leave = nn.Conv2d(fine, latents, 3, padding=1)  # predicts noise, so a pass does not need it

    def levels(self, latents: torch.Tensor, timestep: int, text: torch.Tensor) -> tuple[torch.Tensor, ...]:
        fine = F.silu(self.enter(latents)) + timestep / 1000
        coarse = self.down(fine)
        cells = coarse.flatten(2).transpose(1, 2)
        weights = (4 * self.to_q(cells) @ self.to_k(text).transpose(1, 2)).softmax(dim=-1)  # (B, N, L)
        coarse = coarse + (weights @ self.to_v(text)).transpose(1, 2).unflatten(2, coarse.shape[2:])
        return fine, coarse, weights.transpose(1, 2).unflatten(2, coarse.shape[2:])


class Sketches(Family):
    name = "Sketches"
    denoiser_class = Sketch
    lora_layers = ("to_q", "to_k", "to_v")
    takes_mask = False

    def config(self, model: Sketch) -> dict[str, Any]:
        return model.shape

    def layout(self, model: Sketch) -> Layout:
        return Layout(
            channels=tuple(model.shape["channels"]),
            reduction=(1, 2),
            taps=("enter", "down"),
            attention_layers={"to_q": 1},
            latent_channels=model.shape["latents"],
            text_width=model.shape["words"],
        )

    def unused(self, model: Sketch, layout: Layout) -> list[nn.Module]:
        return [model.leave]

    def one_pass(self, model, layout, latents, *, timestep, text, image_size, record_levels):
        fine, coarse, weights = model.levels(latents, timestep, text.embeddings)
        return (fine, coarse), dict.fromkeys(record_levels, weights)


register(Sketches())


def build_sketch(*, seed: int = 0, words: int = WORDS) -> Sketch:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Sketch(LATENTS, words, list(CHANNELS))


@pytest.fixture
def backbone() -> tadp.TADPBackbone:
    return tadp.TADPBackbone(
        unet=build_sketch(), vae=build_vae(latent_channels=LATENTS), text_encoder=build_text_encoder(width=WORDS),
        tokenizer=build_tokenizer(), attach_attention=(1,),
    ).eval()  # fmt: skip


@pytest.fixture
def folder(backbone, tmp_path):
    backbone.save_pretrained(tmp_path / "sketch")
    return tmp_path / "sketch"


def same(features: tadp.Features, reference: tadp.Features) -> bool:
    return all(torch.equal(first, second) for first, second in zip(features.maps, reference.maps, strict=True))


@pytest.mark.parametrize("size", [(64, 64), (70, 92), (8, 33)])
@torch.no_grad()
def test_images_of_any_size_become_levels_with_attention(backbone, size):
    features = backbone(images(2, *size), ["a dog", "a red cat"])
    assert backbone.feature_info.channels == (10, 12 + 77)
    assert backbone.feature_info.reduction == (8, 16)
    for feature, channels, stride in zip(features.maps, (10, 12 + 77), (8, 16), strict=True):
        assert feature.shape == (2, channels, -(-size[0] // stride), -(-size[1] // stride))
    torch.testing.assert_close(features.attention.at(1).sum(dim=1), torch.ones_like(features.attention.at(1)[:, 0]))
    assert torch.equal(features.maps[1][:, 12:], features.attention.at(1))
    assert features.attention.words(1)[1].words == ("a", "red", "cat")


@torch.no_grad()
def test_a_saved_folder_comes_back_bit_for_bit(backbone, folder):
    config = json.loads((folder / "unet" / "config.json").read_text())
    assert config == {"_class_name": "Sketch", "latents": LATENTS, "words": WORDS, "channels": list(CHANNELS)}
    again = tadp.TADPBackbone.from_pretrained(folder)
    assert isinstance(again.unet, Sketch)
    assert again.state_dict().keys() == backbone.state_dict().keys()
    assert same(again(images(1, 64, 64), "a dog"), backbone(images(1, 64, 64), "a dog"))
    other = tadp.TADPBackbone.from_pretrained(folder, unet=build_sketch(seed=1))
    other.save_pretrained(folder.parent / "other")
    dropped = tadp.TADPBackbone.from_pretrained(folder, unet=folder.parent / "other")
    assert same(dropped(images(1, 64, 64), "a dog"), other(images(1, 64, 64), "a dog"))
    assert not same(dropped(images(1, 64, 64), "a dog"), again(images(1, 64, 64), "a dog"))


def test_half_precision_and_what_it_lacks(folder):
    half = tadp.TADPBackbone.from_pretrained(folder, dtype=torch.bfloat16)
    assert half(images(1, 64, 64), "a dog").maps[0].dtype == torch.bfloat16
    with pytest.raises(ModelError, match=r"Sketches does not support gradient checkpointing"):
        half.enable_gradient_checkpointing()
    half.enable_gradient_checkpointing(False)
    with pytest.raises(ValueError, match=r"the attention of Sketches takes no text mask"):
        half(images(1, 64, 64), half.encode_text("a dog", mask_padding=True))
    with pytest.raises(
        ValueError, match=r"blocks= selects the levels of a transformer .*; the levels of Sketches are fixed"
    ):
        tadp.TADPBackbone.from_pretrained(folder, blocks=(0, 1, 2))
    with pytest.raises(ValueError, match=r"no attention at level 0; this model has it at 1 \(stride 16\)"):
        tadp.TADPBackbone.from_pretrained(folder, attach_attention=(0,))


def segmenter(backbone: tadp.TADPBackbone, **options: Any) -> TADPForSemanticSegmentation:
    torch.manual_seed(0)
    return TADPForSemanticSegmentation(backbone, class_names=["ground", "dog"], window_px=64, **options)


@pytest.mark.parametrize("tune", ["all", "lora"])
def test_a_task_model_trains_saves_and_loads(folder, tune, tmp_path):
    model = segmenter(tadp.TADPBackbone.from_pretrained(folder), tune=tune).train()
    trained = {name for name, parameter in model.backbone.unet.named_parameters() if parameter.requires_grad}
    assert trained
    assert not any(name.startswith("leave") for name in trained)
    optimizer = torch.optim.AdamW(model.parameter_groups(1e-2, unet_scale=1.0))
    batch, truth = images(2, 64, 64), torch.zeros(2, 64, 64, dtype=torch.long)
    truth[:, :32] = 1
    losses = []
    for _ in range(6):
        loss = model(batch, "a dog", truth).loss
        optimizer.zero_grad()
        loss.backward()
        assert [
            name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None
        ] == []
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    model.eval().save_pretrained(tmp_path / "task")
    again = TADPForSemanticSegmentation.from_pretrained(tmp_path / "task")
    with torch.no_grad():
        assert torch.equal(again(batch, "a dog").logits, model(batch, "a dog").logits)
        assert not same(again.backbone(batch, "a dog"), tadp.TADPBackbone.from_pretrained(folder)(batch, "a dog"))


@torch.no_grad()
def test_a_modifier_brings_a_denoiser_of_the_same_shape(backbone):
    before = backbone(images(1, 64, 64), "a dog")
    with CaptionModifier("{caption}", unet=build_sketch(seed=1)).install(backbone):
        assert not same(backbone(images(1, 64, 64), "a dog"), before)
    assert same(backbone(images(1, 64, 64), "a dog"), before)
    with pytest.raises(ModelError.__mro__[1], match=r"U-Net \(Sketches: .* text_width 24\) has another shape than"):
        CaptionModifier("{caption}", unet=build_sketch(words=24)).install(backbone)


@torch.no_grad()
def test_a_program_of_any_size_is_exported(backbone, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # torch.export does not see through it
    program = to_program(backbone)
    for batch, size in ((1, (64, 96)), (3, (32, 64))):
        text = backbone.encode_text(["a dog", "a red cat", "a cat"][:batch])
        exported = program.module()(images(batch, *size), text.embeddings)
        features = backbone(images(batch, *size), text)
        assert all(torch.equal(exported[f"map_{level}"], feature) for level, feature in enumerate(features.maps))


@torch.no_grad()
def test_a_family_that_always_computes_all_levels_still_returns_only_some(backbone):
    full = backbone(images(1, 64, 64), "a dog")
    for level in (0, 1):
        part = backbone(images(1, 64, 64), "a dog", levels=(level,))
        assert part.levels == (level,)
        assert torch.equal(part.maps[0], full.maps[level])
    assert backbone(images(1, 64, 64), "a dog", levels=(0,)).attention is None


def test_errors_list_it_among_the_known_families(folder):
    with pytest.raises(
        ModelError, match=r"cannot read a Linear; it reads Stable Diffusion 1\.x.*, Sketches \(Sketch\)"
    ):
        tadp.TADPBackbone(unet=nn.Linear(1, 1), vae=build_vae())
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"_class_name": "Scribble"}))
    with pytest.raises(ModelError, match=r"holds a 'Scribble'; tadp reads .*Sketches \(Sketch\)"):
        tadp.TADPBackbone.from_pretrained(folder)


def test_a_family_registered_again_takes_the_place_of_the_first():
    class Later(Sketches):
        def matches(self, config):
            return config["words"] == 24

    register(Later())
    try:
        assert isinstance(family_of(build_sketch(words=24)), Later)
        with pytest.raises(ModelError, match="cannot read a Sketch"):
            family_of(build_sketch())
    finally:
        register(Sketches())
    assert type(family_of(build_sketch())) is Sketches


@pytest.mark.usefixtures("no_type_checker")
def test_what_is_no_family_is_refused():
    with pytest.raises(TypeError, match=r"family must be an instance of a subclass of Family; got <class"):
        register(Sketches)  # type: ignore

    class Elsewhere(Sketches):
        part = "denoiser"  # type: ignore

    with pytest.raises(TypeError, match=r"part one of unet, transformer; got .*'denoiser'"):
        register(Elsewhere())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"channels": (10, 13)},
            r"map of level 1 must be \(B, 13 channels, .*of Sketches; .*\(1, 12, 4, 4\)",
        ),
        ({"channels": (10, 12, 12), "reduction": (1, 2, 2)}, "returned 2 maps; 3 are expected"),
        ({"reduction": (1, 4)}, "map of level 1 must have 2x2 cells .* latents of 8x8; its pass returned 4x4"),
        ({"taps": ("enter", "up")}, "has 'up' in taps, but the denoiser has no module of that name"),
        ({"attention_layers": {"to_x": 1}}, "has 'to_x' in attention_layers"),
        ({"attention_layers": {"to_q": 0}}, "attention of level 0 must have 8x8 cells"),
    ],
)
def test_a_layout_that_differs_from_the_pass_is_refused(change, message, monkeypatch):
    right = Sketches.layout

    def wrong(self: Sketches, model: Sketch) -> Layout:
        return replace(right(self, model), **change)

    monkeypatch.setattr(Sketches, "layout", wrong)
    family, model = family_of(build_sketch()), build_sketch()
    text = tadp.Conditioning(torch.zeros(1, 5, WORDS))

    def run() -> None:
        layout = family.read_layout(model)
        family.run_once(
            model, layout, torch.zeros(1, LATENTS, 8, 8), timestep=0, text=text, image_size=(64, 64),
            record_levels=layout.attention_levels,
        )  # fmt: skip

    with pytest.raises(ModelError, match=message):
        run()
