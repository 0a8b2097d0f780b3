from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tadp.features import AttentionMaps, FeatureInfo, Features, PooledMaps, Word, WordMaps, cells_of


@pytest.fixture
def attention() -> AttentionMaps:
    """Attention of two images to five tokens: start, a word of two pieces, a word, end. The second has no words."""
    maps = torch.rand(2, 5, 3, 4, generator=torch.Generator().manual_seed(0)).softmax(dim=1)
    names = ("<start>", "rain", "coat", "dog", "<end>")
    return AttentionMaps(
        {2: maps[:, :, :2, :2], 1: maps}, (names, names), ((Word("raincoat", 1, 3), Word("dog", 3, 4)), ())
    )


def test_a_feature_info_counts_its_levels():
    assert len(FeatureInfo((8, 16), (8, 16))) == 2


def test_a_feature_info_with_other_counts_is_refused():
    with pytest.raises(ValueError, match=r"one entry per level; got 2 channels and 1 reductions"):
        FeatureInfo((8, 16), (8,))


@pytest.mark.usefixtures("no_type_checker")
@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({8, 16}, TypeError, r"must be one whole number per level, in order; got a set\. Pass a tuple"),
        ({8: 0, 16: 1}.keys(), TypeError, r"in order; got a dict_keys"),
        ("8", TypeError, r"in order; got a str"),
        ((8, 1.5), TypeError, r"must be one whole number per level; got 1\.5 \(float\)"),
        ((8, True), TypeError, r"got True \(bool\)"),
        ((8, 0), ValueError, r"each 1 or more; got (channels|reduction) \(8, 0\)"),
        ((-8, 16), ValueError, r"each 1 or more; got (channels|reduction) \(-8, 16\)"),
    ],
)
@pytest.mark.parametrize("name", ["channels", "reduction"])
def test_a_feature_info_takes_ordered_positive_numbers(name, values, error, message):
    with pytest.raises(error, match=message):
        FeatureInfo(**{"channels": (8, 16), "reduction": (8, 16), name: values})


@pytest.mark.usefixtures("no_type_checker")
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"maps": set()}, TypeError, r"maps must be a tuple with one tensor per level; got a set"),
        ({"image_size": {64, 48}}, TypeError, r"image_size must be \(height, width\) in pixels, in order; got a set"),
        ({"image_size": (64, 0)}, ValueError, r"image_size must be .*, each 1 or more; got image_size \(64, 0\)"),
        ({"image_size": (64, 64, 3)}, ValueError, r"image_size must be \(height, width\) in pixels; got 3 numbers"),
    ],
)
def test_features_take_ordered_maps_and_a_positive_size(changes, error, message):
    with pytest.raises(error, match=message):
        Features(**{"maps": (torch.zeros(1, 8, 6, 8),), "attention": None, "image_size": (48, 64)} | changes)


def test_levels_come_finest_first(attention):
    assert attention.levels == (1, 2)


def test_a_level_that_was_not_recorded_is_refused_with_those_that_were(attention):
    with pytest.raises(ValueError, match=r"no attention at level 0; recorded: 1, 2"):
        attention.at(0)
    with pytest.raises(ValueError, match=r"no attention at level 0; recorded: none"):
        AttentionMaps({}, ()).at(0)


def test_heads_that_were_not_recorded_are_refused(attention):
    with pytest.raises(
        ValueError, match=r"no attention per head at level 1\. Build the backbone with.*record_heads=True"
    ):
        attention.heads(1)
    with pytest.raises(ValueError, match=r"no attention of head 0; build the backbone with record_heads=True"):
        attention.head(0)


def test_one_head_has_words_and_names_at_the_levels_that_have_it(attention):
    heads = {level: torch.rand(2, 4 - level, 5, 3, 4) for level in (1, 2)}
    by_head = replace(attention, head_maps=heads)
    second, third = by_head.head(1), by_head.head(2)
    assert (second.levels, third.levels) == ((1, 2), (1,))
    torch.testing.assert_close(second.words(2)[0]["raincoat"], heads[2][0, 1, 1:3].mean(dim=0))
    torch.testing.assert_close(third.pool(["dog"], 1).maps[0, 0], heads[1][0, 2, 3])
    for number in (-1, 3):
        with pytest.raises(ValueError, match=rf"no attention of head {number}; recorded: 3 at level 1, 2 at level 2"):
            by_head.head(number)


@pytest.mark.parametrize("size", [(64, 64), (48, 80), (6, 8), (5, 3)])
def test_the_mean_over_levels_is_that_of_the_resized_maps(attention, size):
    mean = attention.mean_over_levels(size)
    antialias = {1: size[0] < 3 or size[1] < 4, 2: False}
    expected = [F.interpolate(attention.at(k), size, mode="bilinear", antialias=antialias[k]) for k in (1, 2)]
    torch.testing.assert_close(mean.at(0), (expected[0] + expected[1]) / 2, rtol=0, atol=1e-7)
    torch.testing.assert_close(mean.words(0)[0]["raincoat"], mean.at(0)[0, 1:3].mean(dim=0))
    assert (mean.levels, mean.tokens, mean.spans) == ((0,), attention.tokens, attention.spans)
    torch.testing.assert_close(attention.mean_over_levels(size, levels=(2,)).at(0), expected[1], rtol=0, atol=1e-7)
    assert (mean.at(0).sum(dim=1) - 1).abs().max() < 1e-5


def test_the_mean_over_levels_covers_only_the_image():
    """Of a ramp in pixels, levels of any stride give the same values, although the image ends within a cell."""
    height, width = 40, 100
    maps = {}
    for level, stride in enumerate((8, 16, 32)):
        rows, columns = -(-height // stride), -(-width // stride)
        ramp = (torch.arange(columns) + 0.5) * stride + 3 * (torch.arange(rows)[:, None] + 0.5) * stride
        maps[level] = ramp.expand(1, 1, rows, columns).double()
    attention = AttentionMaps(maps, (("x",),), cells=cells_of((height, width), (8, 16, 32)))
    size = (80, 200)
    expected = (torch.arange(200) + 0.5) / 2 + 3 * (torch.arange(80)[:, None] + 0.5) / 2
    for levels in ((0,), (1,), (2,), None):
        mean = attention.mean_over_levels(size, levels=levels).at(0)[0, 0]
        assert mean.shape == size
        inner = slice(32, 47), slice(32, 160)  # beyond the centres of the outer cells, a bilinear map is constant
        torch.testing.assert_close(mean[inner], expected[inner].double(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_mean_over_levels_keeps_its_dtype_and_gradient(attention, dtype):
    maps = {level: attention.at(level).to(dtype).requires_grad_() for level in attention.levels}
    mean = replace(attention, maps=maps).mean_over_levels((7, 9)).at(0)
    assert mean.dtype == dtype
    torch.testing.assert_close(mean.float(), attention.mean_over_levels((7, 9)).at(0), rtol=0, atol=1e-2)
    mean.sum().backward()
    assert all((level_map.grad != 0).any() for level_map in maps.values())


def test_a_mean_over_levels_needs_levels_and_a_size(attention):
    with pytest.raises(ValueError, match=r"pass at least one level"):
        attention.mean_over_levels((64, 64), levels=())
    with pytest.raises(ValueError, match=r"no attention at level 0"):
        attention.mean_over_levels((64, 64), levels=(0, 1))
    with pytest.raises(ValueError, match=r"size must be \(height, width\) in cells, each 1 or more; got \(0, 64\)"):
        attention.mean_over_levels((0, 64))


def test_a_words_map_is_the_mean_of_its_pieces(attention):
    words = attention.words(1)[0]
    maps = attention.at(1)[0]
    assert words.words == ("raincoat", "dog")
    torch.testing.assert_close(words["raincoat"], (maps[1] + maps[2]) / 2)
    torch.testing.assert_close(words["dog"], maps[3])


def test_words_iterate_with_their_maps(attention):
    words = attention.words(1)[0]
    assert len(words) == 2
    assert [(name, tuple(word_map.shape)) for name, word_map in words] == [("raincoat", (3, 4)), ("dog", (3, 4))]


def test_an_empty_prompt_has_no_words_and_no_maps(attention):
    words = attention.words(1)[1]
    assert len(words) == 0
    assert words.words == ()
    assert words.maps.shape == (0, 3, 4)


def test_a_repeated_word_is_averaged_by_name_and_kept_apart_by_position():
    maps = torch.rand(3, 2, 2, generator=torch.Generator().manual_seed(0))
    words = WordMaps(("dog", "cat", "dog"), maps)
    torch.testing.assert_close(words["dog"], (maps[0] + maps[2]) / 2)
    assert [name for name, _ in words] == ["dog", "cat", "dog"]


def test_a_word_that_is_not_there_is_refused_with_those_that_are(attention):
    with pytest.raises(KeyError, match=r"no word 'bird' in this caption; it has raincoat, dog"):
        attention.words(1)[0]["bird"]
    with pytest.raises(KeyError, match=r"it has no words"):
        attention.words(1)[1]["bird"]


def test_text_without_words_says_how_to_get_them(attention):
    with pytest.raises(ValueError, match=r"no words; pass captions, or a Conditioning with `words`"):
        AttentionMaps(attention.maps, attention.tokens).words(1)


# Pooling by name

NAMES = ("<start>", "two", "dining", "tables", ",", "a", "rain", "coat", "hot", ".", "dogs", "dining", "table", "<end>")
SPANS = (
    Word("two", 1, 2), Word("dining", 2, 3), Word("tables", 3, 4), Word("a", 5, 6), Word("raincoat", 6, 8),
    Word("hot", 8, 9), Word("dogs", 10, 11), Word("dining", 11, 12), Word("table", 12, 13),
)  # fmt: skip


@pytest.fixture
def tables() -> AttentionMaps:
    """One text has dining tables twice, a word of two pieces, and a full stop before "dogs"; the other is empty."""
    maps = torch.rand(2, len(NAMES), 3, 4, generator=torch.Generator().manual_seed(1)).softmax(dim=1)
    return AttentionMaps({1: maps}, (NAMES, ("<start>", *["<end>"] * (len(NAMES) - 1))), (SPANS, ()))


def test_pooling_gives_a_channel_a_name_and_zeros_for_what_is_not_there(tables):
    names = ["dining table", "raincoat", "person", "dog"]
    pooled = tables.pool(names, level=1)
    first = tables.at(1)[0]
    assert pooled.maps.shape == (2, 4, 3, 4)
    assert pooled.names == tuple(names)
    torch.testing.assert_close(pooled.maps[0, 0], first[[2, 3, 11, 12]].mean(dim=0))
    torch.testing.assert_close(pooled.maps[0, 1], first[[6, 7]].mean(dim=0))
    torch.testing.assert_close(pooled.maps[0, 3], first[10])
    assert pooled.maps[0, 2].abs().max() == 0
    assert pooled.maps[1].abs().max() == 0
    assert pooled.present.tolist() == [[True, True, False, True], [False] * 4]
    assert pooled.missing() == (("person",), tuple(names))


def test_a_single_word_is_pooled_to_its_own_map(tables):
    words = tables.words(1)[0]
    for word in ("two", "raincoat", "dogs", "dining"):
        torch.testing.assert_close(tables.pool([word], 1).maps[0, 0], words[word])


def test_a_name_is_not_pooled_over_the_end_of_a_sentence(tables):
    assert tables.pool(["hot dog"], 1).missing()[0] == ("hot dog",)
    assert tables.pool(["hot", "dog"], 1).missing()[0] == ()


def test_a_name_is_not_pooled_over_the_seam_of_joined_texts(backbone):
    text = backbone.encode_text(["something hot"]).join(backbone.encode_text(["dog on grass"]))
    maps = torch.rand(1, text.embeddings.shape[1], 2, 2, generator=torch.Generator().manual_seed(2))
    attention = AttentionMaps({1: maps}, text.tokens, text.words)
    assert attention.pool(["hot dog", "dog"], 1).missing() == (("hot dog",),)
    [dog] = [word for word in text.words[0] if word.text == "dog"]
    torch.testing.assert_close(attention.pool(["hot dog", "dog"], 1).maps[0, 1], maps[0, dog.start : dog.stop].mean(0))


def test_of_overlapping_names_the_longest_is_pooled(tables):
    pooled = tables.pool(["table", "dining table"], 1)
    assert pooled.missing()[0] == ("table",)
    torch.testing.assert_close(tables.pool(["table"], 1).maps[0, 0], (tables.at(1)[0, 3] + tables.at(1)[0, 12]) / 2)


def test_synonyms_are_pooled_with_their_name(tables):
    pooled = tables.pool(["furniture", "clothes"], 1, synonyms={"furniture": ["Dining Table"], "clothes": ["raincoat"]})
    torch.testing.assert_close(pooled.maps, tables.pool(["dining table", "raincoat"], 1).maps)
    assert pooled.missing()[0] == ()


def test_a_word_that_is_a_class_of_several_words_is_found_whole():
    """`prompts.averaged_eos` names its embeddings like this: one embedding per class."""
    maps = torch.rand(1, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    words = (Word("dining_table", 0, 1), Word("TV/monitor", 1, 2), Word("table", 2, 3))
    pooled = AttentionMaps({1: maps}, (("dining_table", "TV/monitor", "table"),), (words,)).pool(
        ["tv/monitor", "table", "dining table"], 1
    )
    torch.testing.assert_close(pooled.maps, maps[:, [1, 2, 0]])


def test_the_gradient_of_pooled_maps_reaches_the_tokens_of_the_name_alone(tables):
    maps = tables.at(1).clone().requires_grad_()
    AttentionMaps({1: maps}, tables.tokens, tables.spans).pool(["raincoat", "person"], 1).maps.sum().backward()
    assert maps.grad is not None
    expected = torch.zeros_like(maps)
    expected[0, 6:8] = 0.5
    torch.testing.assert_close(maps.grad, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_pooled_maps_keep_the_dtype(tables, dtype):
    maps = tables.at(1).to(dtype)
    pooled = AttentionMaps({1: maps}, tables.tokens, tables.spans).pool(["raincoat"], 1).maps
    assert pooled.dtype == dtype
    torch.testing.assert_close(pooled[0, 0], maps[0, 6:8].mean(dim=0), rtol=1e-2, atol=1e-3)


def test_pooling_by_nothing_or_without_words_is_refused(tables):
    with pytest.raises(ValueError, match=r"no names to pool by; give at least one"):
        tables.pool([], 1)
    with pytest.raises(ValueError, match=r"a name must have a letter or digit; got '🐶'"):
        tables.pool(["🐶"], 1)
    with pytest.raises(ValueError, match=r"no attention at level 2; recorded: 1"):
        tables.pool(["dog"], 2)
    with pytest.raises(ValueError, match=r"no words; pass captions, or a Conditioning with `words`"):
        AttentionMaps(tables.maps, tables.tokens).pool(["dog"], 1)


def test_a_string_of_names_is_refused(tables):
    with pytest.raises(TypeError, match=r"names must be a list of strings; got the string 'dog'. Pass \['dog'\]"):
        tables.pool("dog", 1)


def test_features_cannot_be_changed(attention):
    features = Features((attention.at(1),), attention, (24, 32))
    with pytest.raises(AttributeError, match=r"image_size"):
        features.image_size = (1, 1)  # type: ignore


def test_a_result_prints_its_shapes_and_no_numbers():
    maps = torch.rand(2, 3, 4, 4)
    attention = AttentionMaps({1: maps}, (("a", "b", "c"),) * 2)
    features = Features((maps, maps[..., :2, :2]), attention, (32, 32))
    assert repr(features) == (
        "Features(maps=((2, 3, 4, 4), (2, 3, 2, 2)), attention=AttentionMaps({1: (2, 3, 4, 4)}), image_size=(32, 32))"
    )
    names = tuple(f"n{number}" for number in range(10))
    pooled = PooledMaps(torch.rand(2, 10, 4, 4), names, torch.ones(2, 10, dtype=torch.bool))
    assert repr(pooled) == "PooledMaps(n0, n1, n2, n3, n4, n5, n6, n7 and 2 more; maps (2, 10, 4, 4))"
    assert repr(WordMaps(("dog", "cat"), maps[0, :2])) == "WordMaps(dog, cat; maps (2, 4, 4))"
