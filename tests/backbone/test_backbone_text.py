"""Text for `backbone(images)`: where it comes from, and that it is found wherever a framework runs the backbone."""

import copy
import pickle
import threading
from pathlib import Path

import pytest
import torch
from builders import build_backbone, images
from running import run_script
from torch import nn
from torch.utils.checkpoint import checkpoint

from tadp import TADPBackbone
from tadp.errors import CaptionError
from tadp.features import Features

IS_LOWEST = torch.__version__.startswith("2.8.")  # the lower bound, whose torch.compile can do less; see docs/export.md
TEXTS = ["a dog", "a red cat", "on grass", "a blue raincoat", "photo of a dog"]


def same(features: Features, other: Features) -> bool:
    return all(torch.equal(a, b) for a, b in zip(features.maps, other.maps, strict=True))


class Framework(nn.Module):
    """A model that calls its backbone with only images, as frameworks do."""

    def __init__(self, backbone: TADPBackbone):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Conv2d(backbone.feature_info.channels[1], 1, 1)

    def forward(self, pixels):
        return self.head(self.backbone(pixels).maps[1])


def build_framework(**options) -> Framework:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Framework(build_backbone(**options))


# Where the text comes from


@torch.no_grad()
def test_an_argument_comes_before_the_block_the_captioner_and_the_default():
    backbone, pixels = build_backbone(default_text="on grass"), images(1, 64, 64)
    of = {text: backbone(pixels, text) for text in ("a dog", "a cat", "red", "on grass")}
    assert same(backbone(pixels), of["on grass"])
    assert backbone.attach_captioner(lambda batch: ["red"] * len(batch)) is backbone
    assert same(backbone(pixels), of["red"])
    with backbone.conditioning("a cat"):
        assert same(backbone(pixels), of["a cat"])
        assert same(backbone(pixels, "a dog"), of["a dog"])
    assert same(backbone.attach_captioner(None)(pixels), of["on grass"])


@torch.no_grad()
def test_latents_take_the_same_text():
    backbone, pixels = build_backbone(default_text="on grass"), images(2, 64, 64)
    latents = backbone.encode_image(pixels)
    assert same(backbone.extract(latents), backbone(pixels, "on grass"))
    with backbone.conditioning(TEXTS[:2]):
        assert same(backbone.extract(latents), backbone(pixels, TEXTS[:2]))
    backbone.attach_captioner(lambda batch: ["red"] * len(batch))
    with pytest.raises(CaptionError, match=r"the attached captioner needs images, but this call has only latents"):
        backbone.extract(latents)


def test_the_default_text_is_saved_and_none_refuses(tmp_path):
    backbone = build_backbone(default_text="a dog")
    backbone.save_pretrained(tmp_path / "saved")
    assert TADPBackbone.from_pretrained(tmp_path / "saved").default_text == "a dog"
    strict = TADPBackbone.from_pretrained(tmp_path / "saved", default_text=None)
    with strict.conditioning("a dog"):
        strict(images(1, 64, 64))
    with pytest.raises(CaptionError, match=r"no text for these images, and default_text is None. Pass captions, call"):
        strict(images(1, 64, 64))  # the block has ended


@torch.no_grad()
def test_a_captioner_is_named_or_made_and_is_no_part_of_the_backbone():
    backbone = TADPBackbone.from_pretrained("tadp-tiny")
    keys, calls = list(backbone.state_dict()), []
    pixels = images(2, 64, 64)
    backbone.attach_captioner("tadp-tiny", max_new_tokens=4)
    captions = backbone.captioner(pixels)
    assert all(captions)
    assert same(backbone(pixels), backbone(pixels, captions))
    assert list(backbone.state_dict()) == keys
    assert copy.deepcopy(backbone).captioner is backbone.captioner

    class Picky:
        def __call__(self, batch):
            calls.append((tuple(batch.shape), torch.is_grad_enabled()))
            return ["a dog", "a cat"]

        def __deepcopy__(self, memo):
            raise AssertionError("a captioner of several GB was copied")

    twin = copy.deepcopy(backbone.attach_captioner(Picky()))
    with torch.enable_grad():
        assert same(twin(pixels), backbone(pixels, ["a dog", "a cat"]))
    assert calls == [((2, 3, 64, 64), False)]


@torch.no_grad()
def test_a_long_caption_of_the_captioner_is_cut_with_a_warning(backbone):
    pixels, long = images(1, 64, 64), "a dog " * 60
    talkative = copy.deepcopy(backbone).attach_captioner(lambda batch: [long])
    with pytest.warns(UserWarning, match=r"122 tokens, but the text encoder takes 77; the rest was cut"):
        cut = talkative(pixels)
    assert same(cut, backbone(pixels, "a dog " * 37 + "a"))


def test_a_copy_and_a_pickle_have_text_of_their_own(backbone):
    pixels = images(1, 64, 64)
    for twin in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
        with torch.no_grad(), backbone.conditioning("a dog"):
            assert same(twin(pixels), backbone(pixels, ""))
            with twin.conditioning("a cat"):
                assert same(twin(pixels), backbone(pixels, "a cat"))


@pytest.mark.parametrize("text", [[], (), None])
def test_a_block_without_captions_is_refused(no_type_checker, backbone, text):
    with pytest.raises(CaptionError, match=r"conditioning\(\) needs captions: .* got .* The empty prompt is ''"):  # noqa: SIM117
        with backbone.conditioning(text):
            pass


def test_captions_of_another_batch_are_refused(backbone):
    with (
        backbone.conditioning(TEXTS[:3]),
        pytest.raises(CaptionError, match=r"2 images but 3 captions; pass one caption per image"),
    ):
        backbone(images(2, 64, 64))
    with (
        backbone.conditioning(backbone.encode_text(TEXTS[:3])),
        pytest.raises(CaptionError, match=r"2 images but 3 texts"),
    ):
        backbone(images(2, 64, 64))


def test_what_is_no_captioner_is_refused(no_type_checker):
    own = build_backbone()
    with pytest.raises(TypeError, match=r"a function from images to captions; got int"):
        own.attach_captioner(3)
    own.attach_captioner(lambda batch: ["a dog"])
    with pytest.raises(CaptionError, match=r"the attached captioner gave 1 captions for 2 images"):
        own(images(2, 64, 64))


# Where frameworks run the backbone


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def test_autocast_takes_the_blocks_text():
    model, pixels = build_framework(), images(2, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        expected = model.head(model.backbone(pixels, TEXTS[:2]).maps[1])
        with model.backbone.conditioning(TEXTS[:2]):
            assert torch.equal(model(pixels), expected)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_around_the_backbone_takes_the_blocks_text_again(use_reentrant):
    model, pixels = build_framework(default_text="on grass").train(), images(2, 64, 64).requires_grad_()

    def run(forward):
        model.zero_grad(set_to_none=True)
        forward(pixels).square().mean().backward()
        return gradients(model)

    expected = run(lambda pixels: model.head(model.backbone(pixels, TEXTS[:2]).maps[1]))
    with model.backbone.conditioning(TEXTS[:2]):
        again = run(lambda pixels: checkpoint(model, pixels, use_reentrant=use_reentrant))
    assert again.keys() == expected.keys()
    assert all(torch.equal(again[name], expected[name]) for name in expected)

    with model.backbone.conditioning(TEXTS[:2]):
        loss = checkpoint(model, pixels, use_reentrant=use_reentrant).square().mean()
    with pytest.raises(CaptionError, match=r"its captions are gone: 0 blocks of conditioning\(\) are open"):
        loss.backward()
    with (
        model.backbone.conditioning("red"),
        model.backbone.conditioning("blue"),
    ):  # the inner one counts
        checkpoint(model, pixels, use_reentrant=use_reentrant).square().mean().backward()


def test_backward_in_a_thread_of_its_own_finds_the_block():
    """On a GPU, backward runs in another thread than the one that called it."""
    model, pixels, errors = build_framework().train(), images(1, 64, 64), []

    def backward(loss):
        try:
            loss.backward()
        except CaptionError as error:
            errors.append(error)

    def in_thread(loss):
        thread = threading.Thread(target=backward, args=(loss,))
        thread.start()
        thread.join()

    model.head(model.backbone(pixels, "a dog").maps[1]).square().mean().backward()
    expected = gradients(model)
    model.zero_grad(set_to_none=True)
    with model.backbone.conditioning("a dog"):
        in_thread(checkpoint(model, pixels, use_reentrant=False).square().mean())
    assert not errors
    assert all(torch.equal(gradient, expected[name]) for name, gradient in gradients(model).items())
    with model.backbone.conditioning("a dog"), model.backbone.conditioning("a cat"):
        in_thread(checkpoint(model, pixels, use_reentrant=False).square().mean())
    assert len(errors) == 1
    assert "2 blocks of conditioning() are open" in str(errors[0])


def test_checkpointing_inside_the_backbone_needs_no_block_in_backward():
    model, pixels = build_framework().train(), images(1, 64, 64)
    model.head(model.backbone(pixels, "a dog").maps[1]).square().mean().backward()
    expected = gradients(model)
    model.zero_grad(set_to_none=True)
    model.backbone.enable_gradient_checkpointing()
    with model.backbone.conditioning("a dog"):
        loss = model(pixels).square().mean()
    loss.backward()
    assert all(torch.equal(gradient, expected[name]) for name, gradient in gradients(model).items())


def compile_worker(*arguments: str) -> list[list[str]]:
    """Run the worker and return the words of each line that it printed."""
    worker = Path(__file__).parents[1] / "support" / "compile_worker.py"
    done = run_script(worker, *arguments)
    assert done.returncode == 0, done.stderr
    return [line.split() for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_a_compiled_backbone_takes_each_blocks_text_and_is_compiled_once():
    calls = compile_worker("captions")
    assert [agrees for agrees, _ in calls] == ["True"] * 3
    assert int(calls[0][1]) > 0
    if not IS_LOWEST:  # torch 2.8 compiles again for other words
        assert len({graphs for _, graphs in calls}) == 1


@pytest.mark.slow
def test_timesteps_and_noise_are_one_graph_from_latents_on():
    assert compile_worker("noise") == [["True"]]


@pytest.mark.slow
def test_some_levels_are_one_graph_from_latents_on():
    assert compile_worker("levels") == [["True"]] * 2


@pytest.mark.slow
@pytest.mark.parametrize("families", [(), ("SDXL",), ("SD 3",), ("FLUX",)], ids=["SD 1.x", "SDXL", "SD 3", "FLUX"])
def test_a_call_with_conditioning_is_one_graph_with_and_without_attention(families):
    """A whole call has attention, and a call that starts from latents has none.

    Attention is attached and recorded in one graph, and separately for a family that is quick to trace.

    `test_compilation` compiles the parts of all families for other sizes.
    """
    if IS_LOWEST and families == ("FLUX",):
        pytest.skip("FLUX of diffusers 0.37 is not one graph with torch 2.8, see docs/export.md")
    sizes, more = (1 if families else 2), (2 if families == ("SD 3",) else 1)
    assert compile_worker("whole", *families) == [["True"] * sizes] + [["True"]] * more
