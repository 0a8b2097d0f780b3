"""`repr` of a backbone is a short summary, also inside a task model."""

from builders import build_backbone, build_unet, build_vae
from diffusers import DDIMScheduler

from tadp import TADPBackbone, TADPForSemanticSegmentation


def assert_is_short(text: str) -> None:
    assert len(text.splitlines()) <= 15
    assert len(text) <= 1200


def test_the_repr_of_a_backbone_is_a_short_summary():
    backbone = TADPBackbone.from_pretrained("tadp-tiny").freeze()
    text = repr(backbone)
    assert_is_short(text)
    total = sum(parameter.numel() for parameter in backbone.parameters())
    for fact in (
        "base model: tadp-tiny",
        "family: Stable Diffusion 1.x and 2.x",
        "0 (stride 8, 32 channels), 1 (stride 16, 64 + 77 channels)",
        "attached attention: levels 1, 2, one channel per token",
        "recorded attention: none",
        "CLIPTextModel, 77 tokens per text; default text ''",
        "timesteps and noise: 0; no noise",
        f"trainable parameters: 0 of {total:,}",
        "dtype and device: torch.float32 on cpu",
    ):
        assert fact in text, fact
    assert "trainable parameters: 0" not in repr(backbone.unfreeze())


def test_the_repr_of_a_backbone_names_what_was_chosen():
    names = [f"class number {number}" for number in range(150)]
    options = {
        "scheduler": DDIMScheduler(),
        "pool_attention": names,
        "attach_attention": (1,),
        "record_attention": (0, 2),
        "default_text": None,
    }
    text = repr(build_backbone(timestep=(0, 261), noise_samples=4, text_adapter=True, **options))
    assert_is_short(text)
    for fact in (
        "base model: built from parts",
        "1 (stride 16, 16 + 150 channels)",
        "attached attention: level 1, pooled: one channel per name (150: class number 0, class",
        "recorded attention: levels 0, 2",
        "CLIPTextModel and text adapter, 77 tokens per text; default text none",
        "timesteps and noise: 0, 261, averaged; mean over 4 noises of seed 0",
    ):
        assert fact in text, fact


def test_the_repr_of_a_backbone_without_a_text_encoder_needs_no_length():
    text = repr(TADPBackbone(vae=build_vae(), unet=build_unet()))
    assert_is_short(text)
    assert "1 (stride 16, 16 channels + 1 per token)" in text
    assert "no text encoder, any number of tokens per text" in text


def test_the_repr_of_a_task_model_holds_the_summary_and_the_head():
    backbone = build_backbone()
    model = TADPForSemanticSegmentation(backbone, class_names=["background", "dog"])
    text = repr(model)
    assert "  (backbone): TADPBackbone(\n    base model: built from parts\n" in text
    assert len(text) - len(repr(model.head)) <= 1500
