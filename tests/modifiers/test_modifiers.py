"""Caption modifiers: what they do to captions, to a backbone, and on disk."""

import copy
import json
import string

import pytest
import torch
from builders import WIDTH, build_backbone, build_text_encoder, build_tokenizer, build_unet, build_vae, images
from safetensors.torch import load_file

from tadp import CaptionModifier, Conditioning, TADPBackbone
from tadp.errors import CorruptFileError, MissingFileError, ModelError, ModifierError, OutputError, UnknownModelError
from tadp.features import Word
from tadp.modifiers.caption_templates import TEMPLATES

CAPTIONS = ["a dog on a sled", "A dog.", "two dogs", "dog on grass", "the sea", "- a cat", "20. Drawing of a cat"]


def vectors(count: int = 2, *, width: int = WIDTH, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def own() -> TADPBackbone:
    """A backbone to change."""
    return build_backbone()


def contents(backbone: TADPBackbone) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in backbone.state_dict().items()}


def is_as_it_was(backbone: TADPBackbone, before: dict[str, torch.Tensor], vocabulary: dict[str, int]) -> bool:
    now = backbone.state_dict()
    assert backbone.text_encoder is not None
    return (
        now.keys() == before.keys()
        and all(torch.equal(now[name], before[name]) for name in now)
        and backbone.text_encoder.tokenizer.get_vocab() == vocabulary
        and backbone.text_encoder.model.config.vocab_size == len(vocabulary)
        and backbone.text_encoder.model.get_input_embeddings().num_embeddings == len(vocabulary)
    )


def vocabulary(backbone: TADPBackbone) -> dict[str, int]:
    assert backbone.text_encoder is not None
    return dict(backbone.text_encoder.tokenizer.get_vocab())


# Captions


def test_captions_are_fitted_into_a_style():
    assert CaptionModifier.style("watercolor")(CAPTIONS) == [
        "a watercolor painting of a dog on a sled",
        "a watercolor painting of a dog.",
        "a watercolor painting of two dogs",
        "a watercolor painting of dog on grass",
        "a watercolor painting of the sea",
        "a watercolor painting of a cat",
        "a watercolor painting of drawing of a cat",
    ]


@pytest.mark.parametrize(
    ("style", "medium", "start"),
    [
        ("dashcam", "photo", "a dashcam photo of "),
        ("impressionist", "painting", "an impressionist painting of "),
        ("  dark   night ", "photo", "a dark night photo of "),
        ("{x}", "painting", "a {x} painting of "),
        ("", "photo", "a photo of "),
        ("水彩", "画", "a 水彩 画 of "),
        ("18th century", "painting", "an 18th century painting of "),
        ("oil", "painting", "an oil painting of "),
        ("graffiti", "", "graffiti of "),
        ("cartoon", "drawings", "cartoon drawings of "),
    ],
)
def test_styles_take_their_article(style, medium, start):
    assert CaptionModifier.style(style, medium=medium)("a dog") == [start + "a dog"]


@pytest.mark.parametrize(
    ("template", "caption", "result"),
    [
        ("{caption}", "- A dog.", "- A dog."),
        ("{caption}, at night", "A dog.", "A dog, at night"),
        ("a photo of a {caption}", "a dog", "a photo of a dog"),
        ("a photo of a {caption}", "people on a beach", "a photo of people on a beach"),
        ("a photo of a {caption}", "MRI scan", "a photo of an MRI scan"),
        ("a photo of a {caption}", "x-ray", "a photo of an x-ray"),
        ("a photo of {caption}", "Paris at night", "a photo of Paris at night"),
        ("a photo of a {caption}", "The dog", "a photo of the dog"),
        ("a photo of a {caption}", "two dogs", "a photo of two dogs"),
        ("a photo of a {caption}", "3 dogs", "a photo of 3 dogs"),
        ("a photo of a {caption}", "owl", "a photo of an owl"),
        ("a photo of an {caption}", "dog", "a photo of a dog"),
        ("the {caption} there", "dog", "the dog there"),
        ("the {caption} there", "a dog", "a dog there"),
        ("A photo of a {caption}", "BMW on a road", "A photo of a BMW on a road"),
        ("a photo of {caption} at night", "A dog.", "a photo of a dog at night"),
        ("a photo of {caption} at night", "", "a photo at night"),
        ("a photo of a {caption}", "  ", "a photo"),
        ("{caption} and {caption}", "A dog.", "A dog and a dog."),
        ("a {{soft}} photo of {caption}", "a {dog} {0}", "a {soft} photo of a {dog} {0}"),
        ("a photo of {caption}", "a dog\n on\tgrass", "a photo of a dog on grass"),
        ("a photo of {caption}", "🐶 on grass", "a photo of 🐶 on grass"),
        ("a photo of {caption}", "שלום", "a photo of שלום"),
        ("صورة {caption}", "A dog", "صورة a dog"),
        ("a photo of {caption}", "Élan", "a photo of Élan"),
        ("a photo of {caption}", "Bob on a bike", "a photo of Bob on a bike"),
        ("a photo of a {caption}", "Bob on a bike", "a photo of Bob on a bike"),
        ("a photo of {caption}", "A MRI scan", "a photo of a MRI scan"),
        ("a photo of a {caption}", "A MRI scan", "a photo of a MRI scan"),
        ("a photo of a {caption}", "water in a glass", "a photo of water in a glass"),
        ("a photo of a {caption}", "green grass", "a photo of green grass"),
        ("a photo of a {caption}", "furniture", "a photo of furniture"),
        ("a photo of a {caption}", "hour glass", "a photo of an hour glass"),
        ("a photo of a {caption}", "UFO in the sky", "a photo of a UFO in the sky"),
        ("the {caption}", "water in a glass", "the water in a glass"),
    ],
)
def test_captions_are_fitted_into_any_template(template, caption, result):
    assert CaptionModifier(template)(caption) == [result]


def test_literally_captions_go_in_as_they_are():
    modifier = CaptionModifier("a photo of a {caption}", literal=True)
    assert modifier(["a dog", "- A dog.", "{caption}", ""]) == [
        "a photo of a a dog", "a photo of a - A dog.", "a photo of a {caption}", "a photo of a ",
    ]  # fmt: skip


def test_no_captions_give_none_and_any_sequence_is_taken():
    modifier = CaptionModifier.style("watercolor")
    assert modifier([]) == []
    assert modifier(()) == []
    assert modifier(("a dog",)) == ["a watercolor painting of a dog"]


def test_captions_that_are_none_are_refused(no_type_checker):
    for wrong, message in ((["a", None], r"got NoneType as caption 1"), (5, r"got int"), (None, r"got NoneType")):
        with pytest.raises(TypeError, match=message):
            CaptionModifier.style("watercolor")(wrong)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("a photo", r"a template must have \{caption\} where the caption goes; got 'a photo'"),
        ("", r"a template must have \{caption\}"),
        ("a {{caption}}", r"a template must have \{caption\}"),
        ("a {style} photo of {caption}", r"a placeholder other than \{caption\}, 'style'"),
        ("{} of {caption}", r"a placeholder other than \{caption\}, ''"),
        ("{caption!r}", r"a placeholder other than"),
        ("{caption:>9}", r"a placeholder other than"),
        ("{caption.upper}", r"a placeholder other than \{caption\}, 'caption\.upper'"),
        ("{caption", r"an unmatched brace"),
        ("caption} {caption}", r"an unmatched brace"),
    ],
)
def test_a_template_without_a_place_for_the_caption_is_refused(template, message):
    with pytest.raises(ModifierError, match=message):
        CaptionModifier(template)


def test_a_template_that_is_no_string_is_refused(no_type_checker):
    with pytest.raises(TypeError, match=r"a template must be a string; got NoneType"):
        CaptionModifier(None)  # pyright: ignore[reportArgumentType]


def test_a_style_that_is_no_string_is_refused(no_type_checker):
    with pytest.raises(TypeError, match=r"a style must be a string, e.g. 'watercolor'; got int"):
        CaptionModifier.style(3)  # pyright: ignore[reportArgumentType]


# The paper's

# As the released code writes them, for the caption "a dog": tadp_objdet.py and tadp_seg_mm.py.
RELEASED = {
    ("watercolor", "null"): "a dog",
    ("watercolor", "simple"): "a watercolor painting of a a dog",
    ("watercolor", "nearby"): "a constructivism painting of a a dog",
    ("watercolor", "unrelated"): "a dashcam photo of a a dog",
    ("watercolor", "textual_inversion"): "a <watercolor> style painting of a a dog",
    ("watercolor", "dreambooth"): "a sks style painting of a a dog",
    ("comic", "null"): "a dog",
    ("comic", "simple"): "a comic style painting of a a dog",
    ("comic", "nearby"): "a constructivism painting of a a dog",
    ("comic", "unrelated"): "a dashcam photo of a a dog",
    ("comic", "textual_inversion"): "a <comic> style painting of a a dog",
    ("comic", "dreambooth"): "a sks style painting of a a dog",
    ("night", "null"): "a dog",
    ("night", "simple"): "a dark night photo of a a dog",
    ("night", "nearby"): "a foggy photo of a a dog",
    ("night", "unrelated"): "a watercolor painting of a a dog",
    ("night", "textual_inversion"): "a dark <night> photo of a a dog",
    ("night", "dreambooth"): "a dashcam photo of a dog at sks night",
}


@pytest.mark.parametrize(("domain", "kind"), RELEASED)
def test_the_papers_modifiers(domain, kind):
    released = RELEASED[domain, kind]
    assert CaptionModifier.for_domain(domain, kind, literal=True)("a dog") == [released]
    assert CaptionModifier.for_domain(domain, kind)("A dog") == [
        released.replace("a a", "a") if kind != "null" else "A dog"
    ]
    counted = CaptionModifier.for_domain(domain, kind)("two dogs")
    assert counted == [released.replace("a a dog", "two dogs").replace("a dog", "two dogs")]


def test_every_modifier_of_the_paper_is_tested():
    assert {(domain, kind) for domain, kinds in TEMPLATES.items() for kind in kinds} == set(RELEASED)
    for kinds in TEMPLATES.values():
        for template in kinds.values():
            assert [name for _, name, _, _ in string.Formatter().parse(template) if name is not None] == ["caption"]


def test_the_papers_tokens_can_be_renamed():
    assert CaptionModifier.for_domain("comic", "textual_inversion", token="<{x}>")("a dog") == [
        "a <{x}> style painting of a dog"
    ]
    assert CaptionModifier.for_domain("comic", "dreambooth", token="zwx")("a dog") == ["a zwx style painting of a dog"]


def test_what_the_paper_does_not_have_is_refused(no_type_checker):
    with pytest.raises(ModifierError, match=r"unknown domain 'oil'; the paper has .*'a rainy photo of \{caption\}'"):
        CaptionModifier.for_domain("oil")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ModifierError, match=r"unknown modifier 'far'; the paper has null, simple, nearby"):
        CaptionModifier.for_domain("comic", "far")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ModifierError, match=r"the modifier 'simple' takes no embedding"):
        CaptionModifier.for_domain("comic", embedding=vectors())
    with pytest.raises(ModifierError, match=r"the modifier 'textual_inversion' takes no unet"):
        CaptionModifier.for_domain("comic", "textual_inversion", unet=build_unet())


# In a backbone


def test_a_learned_token_steers_the_features_and_can_be_taken_out(own):
    before, words = contents(own), vocabulary(own)
    modifier = CaptionModifier("a <toy> photo of {caption}", token="<toy>", embedding=vectors())
    plain = own(images(1, 64, 64), "a photo of a dog").maps[1]
    with modifier.install(own):
        text = own.encode_text(modifier("a dog"))
        assert text.words == (
            (
                Word("a", 1, 2),
                Word("<toy>", 2, 4),
                Word("photo", 4, 5),
                Word("of", 5, 6),
                Word("a", 6, 7),
                Word("dog", 7, 8),
            ),
        )
        features = own(images(1, 64, 64), modifier("a dog"))
        assert features.attention is not None
        assert features.attention.words(1)[0].words == ("a", "<toy>", "photo", "of", "a", "dog")
        assert not torch.equal(features.maps[1], plain)
        assert own.text_encoder is not None
        assert len(own.text_encoder.tokenizer) == len(words) + 2
    assert is_as_it_was(own, before, words)
    assert torch.equal(own(images(1, 64, 64), "a photo of a dog").maps[1], plain)


def test_a_token_that_is_not_installed_is_spelled_out_with_a_warning(own):
    modifier = CaptionModifier("a <Toy> painting of {caption}", token="<Toy>", embedding=vectors())
    with pytest.warns(UserWarning, match=r"no token '<Toy>' and spells it out.*modifier\.install\(backbone\)") as said:
        own.encode_text([*modifier("a dog"), *modifier("a cat")])
    assert len(said) == 1
    with modifier.install(own):
        own.encode_text(["a <toy> painting of a dog", "i <3 you, a < b > c and <|endoftext|>", *modifier("a cat")])
    with pytest.warns(UserWarning, match=r"no token '<Toy>', '<sea>'"):
        own.text_encoder.end_embeddings(["a <Toy>", "the <sea>", "a <Toy>"])


def test_undo_gives_the_very_objects_back_and_twice_is_once(own):
    tokenizer, weight = own.text_encoder.tokenizer, own.text_encoder.model.get_input_embeddings().weight
    installed = CaptionModifier(token="<toy>", embedding=vectors(1)[0], unet=build_unet(seed=1)).install(own)
    unet = own.unet
    installed.undo()
    installed.undo()
    assert own.text_encoder.tokenizer is tokenizer
    assert own.text_encoder.model.get_input_embeddings().weight is weight
    assert own.unet is not unet


def test_an_error_within_the_block_takes_it_out_too(own):
    before, words = contents(own), vocabulary(own)
    modifier = CaptionModifier(token="<toy>", embedding=vectors())
    with pytest.raises(KeyError, match="mine"), modifier.install(own):
        raise KeyError("mine")
    assert is_as_it_was(own, before, words)


def test_what_was_installed_last_goes_first(own):
    before, words = contents(own), vocabulary(own)
    first = CaptionModifier(token="<one>", embedding=vectors(1)).install(own)
    second = CaptionModifier(token="<two>", embedding=vectors(3, seed=1)).install(own)
    with pytest.raises(
        ModifierError, match=r"changed after this modifier was installed; first undo what was installed later"
    ):
        first.undo()
    second.undo()
    first.undo()
    assert is_as_it_was(own, before, words)
    # Independent parts come out in any order.
    token = CaptionModifier(token="<one>", embedding=vectors(1)).install(own)
    unet = CaptionModifier(unet=build_unet(seed=1)).install(own)
    token.undo()
    unet.undo()
    assert is_as_it_was(own, before, words)


def test_a_unet_is_swapped_as_a_copy_and_swapped_back(own):
    before, words, original = contents(own), vocabulary(own), own.unet
    tuned = build_unet(seed=1)
    expected = build_backbone(unet=build_unet(seed=1))(images(1, 64, 64), "a dog")
    weights = {name: tensor.clone() for name, tensor in tuned.state_dict().items()}
    modifier = CaptionModifier(unet=tuned)
    with modifier.install(own):
        features = own(images(1, 64, 64), "a dog")
        assert all(torch.equal(one, other) for one, other in zip(features.maps, expected.maps, strict=True))
        assert own.unet is not tuned
        with torch.no_grad():
            own.unet.conv_in.weight.zero_()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in tuned.state_dict().items())
    assert own.unet is original
    assert is_as_it_was(own, before, words)


def test_swapping_a_unet_says_nothing(own, monkeypatch):
    """At each cast, diffusers warns about layers that stay in float32, but lists none."""
    warned = []
    monkeypatch.setattr("diffusers.models.modeling_utils.logger.warning", warned.append)
    CaptionModifier(unet=build_unet(seed=1)).install(own).undo()
    assert not warned


def test_a_swapped_unet_takes_over_how_the_other_was_used(own):
    own.freeze()
    own.to(torch.bfloat16)
    own.unet.to(memory_format=torch.channels_last)
    own.train()
    own.enable_gradient_checkpointing()
    with CaptionModifier(unet=build_unet(seed=1)).install(own):
        assert own.dtype == torch.bfloat16
        assert not any(parameter.requires_grad for parameter in own.unet.parameters())
        assert own.unet.training
        assert own.unet.is_gradient_checkpointing
        assert own.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    own = build_backbone()
    with CaptionModifier(unet=build_unet(seed=1)).install(own):
        trained = {name for name, parameter in own.unet.named_parameters() if parameter.requires_grad}
        assert trained == {name for name, p in build_backbone().unet.named_parameters() if p.requires_grad}
        own(images(1, 64, 64), "a dog").maps[0].mean().backward()
        assert own.unet.conv_in.weight.grad is not None


def test_a_swapped_unet_trains_where_the_other_trained(own):
    own.unet.requires_grad_(False)
    own.unet.up_blocks[0].requires_grad_(True)
    before = {name for name, parameter in own.unet.named_parameters() if parameter.requires_grad}
    with CaptionModifier(unet=build_unet(seed=1)).install(own):
        trained = {name for name, parameter in own.unet.named_parameters() if parameter.requires_grad}
    assert trained == before
    assert all(name.startswith("up_blocks.0.") for name in trained)


def test_undo_follows_a_backbone_that_has_moved_on(own):
    installed = CaptionModifier(token="<toy>", embedding=vectors(), unet=build_unet(seed=1)).install(own)
    own.to(torch.bfloat16)
    installed.undo()
    assert {tensor.dtype for tensor in own.state_dict().values() if tensor.is_floating_point()} == {torch.bfloat16}
    assert own(images(1, 64, 64), "a dog").maps[0].dtype == torch.bfloat16


def test_a_token_that_is_there_is_refused_and_nothing_changes(own):
    before, words = contents(own), vocabulary(own)
    for token in ("dog", "<|endoftext|>"):
        with pytest.raises(
            ModifierError, match=rf"the token '{token.replace('|', '[|]')}' is already in the vocabulary"
        ):
            CaptionModifier(token=token, embedding=vectors(1), unet=build_unet(seed=1)).install(own)
    modifier = CaptionModifier(token="<toy>", embedding=vectors())
    match = r"the token '<toy>' is already .*perhaps its modifier is already installed; if not, choose another"
    with modifier.install(own), pytest.raises(ModifierError, match=match):
        modifier.install(own)
    assert is_as_it_was(own, before, words)


def test_a_failure_half_way_changes_nothing(own):
    before, words = contents(own), vocabulary(own)
    good = CaptionModifier(token="<one>", embedding=vectors(1))
    for bad, message in (
        (
            CaptionModifier(token="<two>", embedding=vectors(1, width=8)),
            r"'<two>' is 8 wide, but this text encoder's are 16 wide",
        ),
        (CaptionModifier(unet=build_unet(channels=(8, 8, 16, 16))), r"has another shape than the backbone's"),
        (CaptionModifier(unet=build_unet(cross_attention_dim=8)), r"text_width 8\) has another shape"),
    ):
        with pytest.raises(ModifierError, match=message):
            (good | bad).install(own)
        assert is_as_it_was(own, before, words)
    with pytest.raises(ModelError, match=r"unknown down block"):
        (good | CaptionModifier(unet=unknown_unet())).install(own)
    assert is_as_it_was(own, before, words)


def unknown_unet():
    unet = build_unet()
    unet.register_to_config(down_block_types=("Strange",) * 4)
    return unet


def test_a_token_without_an_embedding_needs_a_backbone_that_knows_it(own):
    bare = CaptionModifier.for_domain("watercolor", "textual_inversion")
    with pytest.raises(
        ModifierError, match=r"the token '<watercolor>' has no embedding, and this backbone does not know"
    ):
        bare.install(own)
    with CaptionModifier(token="<Watercolor>", embedding=vectors()).install(own), bare.install(own):
        pass


def test_a_backbone_without_a_text_encoder_learns_no_token():
    backbone = TADPBackbone(vae=build_vae(), unet=build_unet(), text_length=4).eval()
    with pytest.raises(ModifierError, match=r"this backbone has no text encoder to learn '<toy>'"):
        CaptionModifier(token="<toy>", embedding=vectors()).install(backbone)
    with CaptionModifier(unet=build_unet(seed=1)).install(backbone):
        backbone(images(1, 64, 64), Conditioning(torch.zeros(1, 4, WIDTH)))


def test_words_alone_install_nothing(own):
    before, words = contents(own), vocabulary(own)
    with CaptionModifier.style("watercolor").install(own):
        assert is_as_it_was(own, before, words)


@pytest.mark.parametrize("count", [1, 3])
def test_a_backbone_with_a_token_is_saved_and_loaded_with_it(own, tmp_path, count):
    modifier = CaptionModifier("a <toy> photo of {caption}", token="<toy>", embedding=vectors(count))
    captions = modifier(["a dog", "a cat"])
    with modifier.install(own):
        expected = own.encode_text(captions)
        own.save_pretrained(tmp_path / "model")
    loaded = TADPBackbone.from_pretrained(tmp_path / "model").encode_text(captions)
    assert torch.equal(loaded.embeddings, expected.embeddings)
    assert loaded.words == expected.words
    own.save_pretrained(tmp_path / "model")
    with pytest.warns(UserWarning, match=r"no token '<toy>'"):
        assert TADPBackbone.from_pretrained(tmp_path / "model").encode_text("<toy>").words != expected.words


def test_a_token_with_brackets_inside_is_known_and_what_stands_in_them_is_not(own):
    modifier = CaptionModifier("my<Style> {caption}", token="my<style>", embedding=vectors())
    with modifier.install(own):
        own.encode_text(modifier("a dog"))  # without a warning
        with pytest.warns(UserWarning, match=r"no token '<style>', '<other>' and"):
            own.encode_text("a <style> dog, my<style> and <other>")


def test_a_backbone_with_a_token_is_copied_with_it(own):
    modifier = CaptionModifier("<toy> {caption}", token="<toy>", embedding=vectors())
    with modifier.install(own):
        expected = own.encode_text(modifier("a dog")).embeddings
        twin = copy.deepcopy(own)
    assert torch.equal(twin.encode_text(modifier("a dog")).embeddings, expected)


def test_what_cannot_be_learned_is_refused(no_type_checker):
    with pytest.raises(ModifierError, match=r"an embedding needs the token it belongs to"):
        CaptionModifier(embedding=vectors())
    with pytest.raises(ModifierError, match=r"a token must be one word without white space"):
        CaptionModifier(token="a toy", embedding=vectors())
    with pytest.raises(TypeError, match=r"a token must be a string"):
        CaptionModifier(token=5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ModifierError, match=r"shape \(1, 1, 16\)"):
        CaptionModifier(token="<toy>", embedding=vectors(1)[None])
    with pytest.raises(ModifierError, match=r"not finite"):
        CaptionModifier(token="<toy>", embedding=vectors() / 0)
    with pytest.raises(TypeError, match=r"must be a tensor, \(D,\) or \(N, D\); got list"):
        CaptionModifier(token="<toy>", embedding=[1.0])  # pyright: ignore[reportArgumentType]


def test_a_modifier_keeps_its_vectors_to_itself(own):
    embedding = vectors()
    modifier = CaptionModifier(token="<toy>", embedding=embedding)
    embedding.zero_()
    with modifier.install(own):
        assert torch.equal(own.text_encoder.model.get_input_embeddings().weight[-2:], vectors())
        with torch.no_grad():
            own.text_encoder.model.get_input_embeddings().weight.zero_()
    with modifier.install(own):
        assert torch.equal(own.text_encoder.model.get_input_embeddings().weight[-2:], vectors())


# Composition


def test_modifiers_apply_one_after_the_other(own):
    rain = CaptionModifier("{caption} in the rain")
    toy = CaptionModifier("a <toy> photo of {caption}", token="<toy>", embedding=vectors())
    both = rain | toy
    assert both("A dog.") == toy(rain("A dog.")) == ["a <toy> photo of a dog in the rain"]
    assert rain.then(toy)("a dog") == both("a dog")
    assert (toy | rain)("a dog") == ["a <toy> photo of a dog in the rain"]
    assert rain.then()(["a"]) == rain(["a"])
    assert both.templates == ("{caption} in the rain", "a <toy> photo of {caption}")
    assert both.tokens == ("<toy>",)
    assert repr(both) == (
        "CaptionModifier('{caption} in the rain') | "
        "CaptionModifier('a <toy> photo of {caption}', token='<toy>', embedding=(2, 16))"
    )
    before, words = contents(own), vocabulary(own)
    with (both | CaptionModifier(token="<car>", embedding=vectors(3, seed=1), unet=build_unet(seed=2))).install(own):
        text = own.encode_text("<car> <toy>")
        assert text.words == ((Word("<car>", 1, 4), Word("<toy>", 4, 6)),)
    assert is_as_it_was(own, before, words)


def test_composition_keeps_what_was_literal():
    both = CaptionModifier("a {caption}", literal=True) | CaptionModifier.style("oil")
    assert both("a dog") == ["an oil painting of a a dog"]


def test_parts_that_exclude_each_other_are_refused():
    with pytest.raises(
        ModifierError, match=r"a backbone has one U-Net, and more than one of these modifiers has its own"
    ):
        CaptionModifier(unet=build_unet()) | CaptionModifier(unet=build_unet())
    with pytest.raises(ModifierError, match=r"two of these modifiers add the same token, of <toy>, <TOY>"):
        CaptionModifier(token="<toy>", embedding=vectors()) | CaptionModifier(token="<TOY>", embedding=vectors())
    with pytest.raises(TypeError, match=r"unsupported operand"):
        CaptionModifier() | "a dog"  # pyright: ignore[reportOperatorIssue]


# On disk


def test_a_modifier_is_saved_and_loaded(own, tmp_path):
    modifier = (
        CaptionModifier("{caption} {{שלום}} 🐶")
        | CaptionModifier("a <toy> {caption}", token="<toy>", embedding=vectors().half(), literal=True)
        | CaptionModifier("a <car> {caption}", token="<car>", embedding=vectors(1, seed=1), unet=build_unet(seed=1))
        | CaptionModifier("a <bare> {caption}", token="<bare>")
    )
    modifier.save_pretrained(tmp_path / "mine")
    loaded = CaptionModifier.from_pretrained(tmp_path / "mine")
    assert loaded(CAPTIONS) == modifier(CAPTIONS)
    assert repr(loaded) == repr(modifier)
    with CaptionModifier(token="<bare>", embedding=vectors(1, seed=3)).install(own):
        with modifier.install(own):
            expected = own(images(1, 64, 64), "a <toy> <car>")
        with loaded.install(own):
            features = own(images(1, 64, 64), "a <toy> <car>")
    assert all(torch.equal(one, other) for one, other in zip(features.maps, expected.maps, strict=True))
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == [
        "learned_embeds_1.safetensors", "learned_embeds_2.safetensors", "modifier.json", "unet",
    ]  # fmt: skip
    assert load_file(tmp_path / "mine" / "learned_embeds_1.safetensors")["<toy>"].dtype == torch.float16


def test_a_saved_modifier_replaces_another(tmp_path):
    CaptionModifier(token="<toy>", embedding=vectors()).save_pretrained(tmp_path)
    CaptionModifier.style("watercolor").save_pretrained(tmp_path)
    loaded = CaptionModifier.from_pretrained(tmp_path)
    assert loaded.tokens == ()
    assert loaded.templates == ("a watercolor painting of {caption}",)


@pytest.mark.parametrize("count", [1, 3])
def test_diffusers_reads_a_saved_token_and_encodes_it_the_same(own, tmp_path, count):
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    modifier = CaptionModifier("a <toy> photo of {caption}", token="<toy>", embedding=vectors(count))
    modifier.save_pretrained(tmp_path / "mine")
    pipeline = StableDiffusionPipeline(
        vae=build_vae(),
        unet=build_unet(),
        text_encoder=build_text_encoder(),
        tokenizer=build_tokenizer(),
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,  # pyright: ignore[reportArgumentType]
        feature_extractor=None,  # pyright: ignore[reportArgumentType]
        requires_safety_checker=False,
    )
    pipeline.load_textual_inversion(str(tmp_path / "mine"), local_files_only=True)
    (caption,) = modifier("a dog")
    with torch.no_grad():
        theirs, _ = pipeline.encode_prompt(caption, "cpu", 1, False)
    with modifier.install(own):
        ours = own.encode_text(caption).embeddings
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match=r"cannot write .*file"):
        CaptionModifier.style("oil").save_pretrained(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_folders_that_hold_no_modifier_are_refused(tmp_path):
    with pytest.raises(
        UnknownModelError, match=r"unknown model .* Pass a folder that CaptionModifier\.save_pretrained"
    ):
        CaptionModifier.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(MissingFileError, match=r"no modifier\.json in"):
        CaptionModifier.from_pretrained(tmp_path)
    torch.save({"<toy>": vectors(1)[0]}, tmp_path / "toy.bin")
    with pytest.raises(UnknownModelError, match=r"toy\.bin is a file; .*tadp\.convert\.read_token"):
        CaptionModifier.from_pretrained(tmp_path / "toy.bin")
    for content, message in (
        ("{", r"modifier\.json is not JSON"),
        ("{}", r"describes no modifier: steps must be a list of 1 to 100 objects; got None"),
        ('{"steps": []}', r"describes no modifier: steps must be a list of 1 to 100 objects; got \[\]"),
        ('{"steps": [5]}', r"does not describe a modifier"),
        (
            '{"steps": [{"template": "{caption}"}]}',
            r"does not describe a modifier: steps\.0 must have template, literal, token, has_embedding",
        ),
    ):
        (tmp_path / "modifier.json").write_text(content)
        with pytest.raises(CorruptFileError, match=message):
            CaptionModifier.from_pretrained(tmp_path)
    step = {"template": "x", "literal": False, "token": None, "has_embedding": False, "has_unet": False}
    (tmp_path / "modifier.json").write_text(json.dumps({"steps": [step]}))
    with pytest.raises(ModifierError, match=r"a template must have \{caption\}"):
        CaptionModifier.from_pretrained(tmp_path)


def test_folders_with_missing_or_broken_parts_are_refused(tmp_path):
    CaptionModifier(token="<toy>", embedding=vectors(), unet=build_unet()).save_pretrained(tmp_path)
    embeds = tmp_path / "learned_embeds.safetensors"
    whole = embeds.read_bytes()
    embeds.write_bytes(whole[:20])
    with pytest.raises(CorruptFileError, match=r"learned_embeds\.safetensors is not a complete safetensors file"):
        CaptionModifier.from_pretrained(tmp_path)
    embeds.unlink()
    with pytest.raises(MissingFileError, match=r"no learned_embeds\.safetensors in"):
        CaptionModifier.from_pretrained(tmp_path)
    embeds.write_bytes(whole)
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(MissingFileError, match=r"no diffusion_pytorch_model\.safetensors in"):
        CaptionModifier.from_pretrained(tmp_path)


def test_steps_that_double_a_caption_are_stopped(tmp_path):
    doubling = CaptionModifier("{caption} {caption}")
    for _ in range(6):
        doubling = doubling | doubling
    with pytest.raises(ModifierError, match=r"'{caption} {caption}' makes a caption of \d+ characters; at most 100000"):
        doubling("a dog")
    with pytest.raises(ModifierError, match="at most 2000 characters; got 5009"):
        CaptionModifier("a" * 5000 + "{caption}")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("template", 7, "steps.0.template must be a text; got 7"),
        ("literal", "no", "steps.0.literal must be true or false; got 'no'"),
        ("token", ["<x>"], r"steps.0.token must be a text or null; got \['<x>'\]"),
        ("has_unet", None, "steps.0.has_unet must be true or false; got None"),
        ("template", "a {dog}", "steps.0: the template 'a {dog}' has a placeholder"),
        ("has_embedding", True, "has steps.0.has_embedding"),
        ("has_unet", True, "has steps.0.has_unet"),
    ],
)
def test_an_entry_of_another_type_is_named(tmp_path, key, value, message):
    CaptionModifier("a {caption}").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "modifier.json").read_text())
    config["steps"][0][key] = value
    (tmp_path / "modifier.json").write_text(json.dumps(config))
    with pytest.raises((ModelError, ModifierError, MissingFileError), match=rf"modifier\.json.*{message}"):
        CaptionModifier.from_pretrained(tmp_path)
