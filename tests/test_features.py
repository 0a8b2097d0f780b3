import pytest
import torch

from tadp.features import AttentionMaps, FeatureInfo, Features, Word, WordMaps


@pytest.fixture
def attention() -> AttentionMaps:
    """Two images under five tokens: start, a word of two pieces, a word, end; the second has no words."""
    maps = torch.rand(2, 5, 3, 4, generator=torch.Generator().manual_seed(0)).softmax(dim=1)
    names = ("<start>", "rain", "coat", "dog", "<end>")
    return AttentionMaps(
        {2: maps[:, :, :2, :2], 1: maps}, (names, names), ((Word("raincoat", 1, 3), Word("dog", 3, 4)), ())
    )


def test_a_feature_info_counts_its_levels():
    assert len(FeatureInfo((8, 16), (8, 16))) == 2


def test_a_feature_info_with_other_counts_is_refused():
    with pytest.raises(ValueError, match=r"one reduction a level; got 2 channels, 1 reductions"):
        FeatureInfo((8, 16), (8,))


def test_levels_come_finest_first(attention):
    assert attention.levels == (1, 2)


def test_a_level_that_was_not_recorded_is_refused_with_those_that_were(attention):
    with pytest.raises(ValueError, match=r"no attention at level 0; recorded: 1, 2"):
        attention.at(0)
    with pytest.raises(ValueError, match=r"no attention at level 0; recorded: none"):
        AttentionMaps({}, ()).at(0)


def test_a_words_map_is_the_mean_of_its_pieces(attention):
    words = attention.words(1)[0]
    maps = attention.at(1)[0]
    assert words.words == ("raincoat", "dog")
    torch.testing.assert_close(words["raincoat"], (maps[1] + maps[2]) / 2)
    torch.testing.assert_close(words["dog"], maps[3])


def test_words_iterate_with_their_maps(attention):
    words = attention.words(1)[0]
    assert len(words) == 2
    assert [(name, tuple(one.shape)) for name, one in words] == [("raincoat", (3, 4)), ("dog", (3, 4))]


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
    assert repr(WordMaps(("dog", "cat"), maps[0, :2])) == "WordMaps(dog, cat; maps (2, 4, 4))"
