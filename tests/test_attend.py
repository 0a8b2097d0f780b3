import copy
import pickle

import pytest
import torch
from builders_families import build_family

import tadp
from tadp.features import Features

LEVELS = (0, 1, 2)
TEXTS = ["a dog on a fence", "a car"]


@pytest.fixture(scope="module")
def recording(backbone):
    return backbone.with_options(record_attention=LEVELS, record_queries=True)


@pytest.fixture(scope="module")
def xl_folder(tmp_path_factory):
    return build_family("SDXL", tmp_path_factory.mktemp("xl"))


@pytest.fixture(scope="module")
def pixels():
    return torch.rand(2, 3, 72, 100, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def features(recording, pixels):
    with torch.no_grad():
        return recording(pixels, TEXTS)


def test_recording_queries_changes_neither_maps_nor_attention(backbone, features, pixels):
    with torch.no_grad():
        plain = backbone.with_options(record_attention=LEVELS)(pixels, TEXTS)
    before = [level.clone() for level in features.maps]
    with torch.no_grad():
        features.attend(["cat", "red bus"], 1)
    for own, plain_map, earlier in zip(features.maps, plain.maps, before, strict=True):
        assert torch.equal(own, plain_map)
        assert torch.equal(own, earlier)
    for level in features.attention.levels:
        assert torch.equal(features.attention.at(level), plain.attention.at(level))


@pytest.mark.parametrize(("level", "masked", "finest"), [(0, False, 0), (1, True, 0), (2, False, 2)])
def test_maps_equal_diffusers_attention_to_the_text_followed_by_the_names(backbone, level, masked, finest):
    """The queries come from hooks; the scores and the mean over heads from diffusers."""
    model = backbone.with_options(
        record_attention=(level,), record_queries=True, attach_attention=(), levels=tuple(range(finest, 3))
    )
    text = model.encode_text(TEXTS, mask_padding=masked)
    names = ["cat", "red bus"]
    own = model.encode_text(names)
    pieces = [
        embeddings[words[0].start : words[-1].stop] for embeddings, words in zip(own.embeddings, own.words, strict=True)
    ]
    tokens = torch.cat([text.embeddings, torch.cat(pieces).expand(2, -1, -1)], dim=1)
    mask = torch.zeros(2, 1, tokens.shape[1])
    if masked:
        mask[:, 0, : text.embeddings.shape[1]] = (1 - text.mask.float()) * -10000.0
    modules, inputs, hooks = dict(model.unet.named_modules()), {}, []
    for name in [name for name, number in model.layout.attention_layers.items() if number == level]:
        hook = lambda module, args, name=name: inputs.__setitem__(name, args[0])  # noqa: E731
        hooks.append(modules[name].to_q.register_forward_pre_hook(hook))
    with torch.no_grad():
        features = model(torch.rand(2, 3, 64, 128), text)
        for hook in hooks:
            hook.remove()
        expected = []
        for name, hidden in inputs.items():
            layer = modules[name]
            query, key = layer.head_to_batch_dim(layer.to_q(hidden)), layer.head_to_batch_dim(layer.to_k(tokens))
            scores = layer.get_attention_scores(query, key, mask.repeat_interleave(layer.heads, dim=0))
            mean = scores.unflatten(0, (2, -1)).mean(dim=1)[..., text.embeddings.shape[1] :]
            parts = mean.split([len(piece) for piece in pieces], dim=-1)
            expected.append(torch.stack([part.mean(dim=-1) for part in parts], dim=1))
        maps = features.attend(names, level)
    height, width = maps.maps.shape[2:]
    assert torch.allclose(maps.maps, torch.stack(expected).mean(0).unflatten(2, (height, width)), atol=1e-6)
    assert maps.names == ("cat", "red bus")


def test_names_in_the_text_are_reported(features):
    with torch.no_grad():
        assert features.attend(["dog", "fences", "cat"]).present.tolist() == [[True, True, False], [False] * 3]


def test_self_attention_averages_maps_over_the_cells_of_the_image(features):
    ones = torch.ones(2, 1, *features.by_level[1].shape[2:])
    assert torch.allclose(features.queries.spread(ones, 1), ones, atol=1e-5)
    maps = torch.rand(2, 3, *ones.shape[2:], generator=torch.Generator().manual_seed(1))
    expected = []
    for layer in features.queries.at(1).values():
        query, key = (
            tensor.flatten(2).unflatten(1, (layer.heads, -1)).transpose(2, 3)
            for tensor in (layer.self_query, layer.self_key)
        )
        values = maps.flatten(2).transpose(1, 2).unsqueeze(1).expand(-1, layer.heads, -1, -1)
        expected.append(torch.nn.functional.scaled_dot_product_attention(query, key, values).mean(1))
    mean = torch.stack(expected).mean(0).transpose(1, 2).unflatten(2, maps.shape[2:])
    assert torch.allclose(features.queries.spread(maps, 1), mean, atol=1e-5)


def test_self_attention_is_that_of_the_layers(backbone, recording, pixels):
    name = next(name for name, level in recording.layout.attention_layers.items() if level == 1)
    layer, kept = dict(backbone.unet.named_modules())[name.replace("attn2", "attn1")], []
    hook = layer.to_k.register_forward_hook(lambda module, args, output: kept.append(output))
    with torch.no_grad():
        features = recording(pixels[..., :64, :64], TEXTS)
    hook.remove()
    assert torch.equal(features.queries.at(1)[name].self_key.flatten(2).transpose(1, 2), kept[0])


def test_copies_do_not_hold_the_backbone(features):
    assert pickle.loads(pickle.dumps(features)).queries is None
    with pytest.raises(ValueError, match="these features have no queries"):
        copy.copy(features).attend(["dog"])


def test_invalid_requests_are_explained(backbone, features):
    with pytest.raises(ValueError, match=r"no queries at level 3; recorded: 0, 1, 2"):
        features.attend(["dog"], 3)
    with pytest.raises(ValueError, match="no names to attend to"):
        features.attend([])
    with pytest.raises(ValueError, match=r"record_queries needs levels to record; pass record_attention=\(0, 1\)"):
        backbone.with_options(record_queries=True, attach_attention=(), record_attention=())
    for passes in ({"timestep": (0, 100)}, {"noise_samples": 2, "timestep": 100}):
        with pytest.raises(ValueError, match="record_queries keeps the queries of one pass"):
            backbone.with_options(record_queries=True, **passes)
    assert Features((torch.zeros(1, 2, 4, 4),), None, (32, 32)).queries is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_xl_and_other_precisions_record_queries_without_a_change(xl_folder, dtype, pixels):
    options = {"attach_attention": (), "record_attention": (1, 2), "dtype": dtype}
    model = tadp.TADPBackbone.from_pretrained(xl_folder, **options).freeze()
    with torch.no_grad():
        plain, features = model(pixels, TEXTS), model.with_options(record_queries=True)(pixels, TEXTS)
        maps = features.attend(["cat", "red bus"], 2).maps
    assert all(torch.equal(*pair) for pair in zip(plain.maps, features.maps, strict=True))
    assert all(torch.equal(plain.attention.at(level), features.attention.at(level)) for level in (1, 2))
    assert maps.dtype == dtype
    assert maps.shape == (2, 2, *features.by_level[2].shape[2:])
    assert maps.min() > 0


def test_joint_transformers_are_refused(tmp_path):
    folder = build_family("SD 3 without T5", tmp_path)
    with pytest.raises(
        ValueError, match=r"queries are not recorded for Stable Diffusion 3.x; pass record_queries=False"
    ):
        tadp.TADPBackbone.from_pretrained(folder, record_attention=(1,), record_queries=True)
