import json
import re

import pytest

from tadp.language.matching import (
    IRREGULAR_PLURALS,
    Mention,
    checked_names,
    ends_clause,
    find_names,
    forms,
    mentions,
    plurals,
    split_words,
)

VOC = [
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dining_table", "dog",
    "horse", "motorbike", "person", "potted_plant", "sheep", "sofa", "train", "tv/monitor",
]  # fmt: skip


def named(caption: str, names: list[str], **options) -> list[str]:
    return [mention.name for mention in mentions(caption, names, **options)]


def test_a_mention_has_the_characters_it_covers():
    caption = "Two DOGS, and a dining  table."
    places = mentions(caption, ["dog", "dining table"])
    assert places == [Mention("dog", 4, 8), Mention("dining table", 16, 29)]
    assert [caption[mention.start : mention.stop] for mention in places] == ["DOGS", "dining  table"]


@pytest.mark.parametrize(
    ("singular", "plural"),
    [
        ("dog", "dogs"), ("bus", "buses"), ("box", "boxes"), ("bench", "benches"), ("brush", "brushes"),
        ("city", "cities"), ("boy", "boys"), ("tomato", "tomatoes"), ("photo", "photos"), ("leaf", "leaves"),
        ("knife", "knives"), ("roof", "roofs"), ("person", "people"), ("man", "men"), ("policewoman", "policewomen"),
        ("child", "children"), ("mouse", "mice"), ("goose", "geese"), ("tooth", "teeth"), ("sheep", "sheep"),
        ("aircraft", "aircraft"), ("glass", "glasses"), ("sandwich", "sandwiches"), ("bookshelf", "bookshelves"),
        ("housewife", "housewives"), ("thief", "thieves"), ("cafe", "cafes"), ("giraffe", "giraffes"),
        ("salesperson", "salespeople"), ("snowman", "snowmen"), ("bookcase", "bookcases"), ("tv", "tvs"),
        ("gentleman", "gentlemen"), ("roman", "romans"), ("ottoman", "ottomans"), ("mango", "mangos"),
        ("mango", "mangoes"), ("scarf", "scarfs"), ("scarf", "scarves"), ("schoolchild", "schoolchildren"),
    ],
)  # fmt: skip
def test_a_plural_counts_as_its_singular_both_ways(singular, plural):
    assert named(f"some {plural} here", [singular]) == [singular]
    assert named(f"a {singular} here", [plural]) == [plural]
    assert named(f"wine {plural} here", [f"wine {singular}"]) == [f"wine {singular}"]


@pytest.mark.parametrize(
    ("caption", "name"),
    [
        ("a carpet and a scar", "car"),
        ("a catalogue", "cat"),
        ("this is as it was", "a"),
        ("this is as it was", "i"),
        ("they see them", "her"),
        ("as it is", "ass"),
        ("a princess", "princes"),
        ("a bus", "bu s"),
        ("it was hot. Dogs ran", "hot dog"),
        ("hot, dogs", "hot dog"),
        ("new shoes", "news"),
        ("two caves", "cafe"),
        ("a goalkeeper saves", "safe"),
        ("he believes it", "belief"),
        ("a cafe", "caves"),
        ("dining tables", "dinings table"),
        ("manly", "man"),
        ("एक कुत्ता", "क"),
        ("שָׁלוֹם", "ש"),
        ("", "dog"),
        ("...", "dog"),
        ("🐶", "dog"),
    ],
)
def test_another_word_is_no_mention(caption, name):
    assert mentions(caption, [name]) == []


@pytest.mark.parametrize(
    ("caption", "name"),
    [
        ("a dining-table", "dining_table"),
        ("a dining_table", "Dining Table"),
        ("the man's dog", "man"),
        ("a tv/monitor", "tv/monitor"),
        ("a tv monitor", "tv/monitor"),
        ("a St. Bernard sleeps", "st. bernard"),
        ("a St Bernard sleeps", "st. bernard"),
        ("route 66", "route 66"),
        ("a T-shirt", "t-shirt"),
        ("two t-shirts", "t-shirt"),
        ("a cafe\u0301", "café"),
        ("ＤＯＧ", "dog"),  # noqa: RUF001
        ("שלום כלב", "כלב"),
        ("एक कुत्ता और", "कुत्ता"),
        ("a dog 🐶", "dog"),
        ("(dog)", "dog"),
        ("dog", "dog"),
    ],
)
def test_case_hyphens_punctuation_and_scripts_do_not_hide_a_name(caption, name):
    assert named(caption, [name]) == [name]


def test_the_longest_of_overlapping_names_counts():
    assert named("a hot dog next to a dog", ["dog", "hot dog"]) == ["hot dog", "dog"]
    assert named("a hot dog", ["dog"]) == ["dog"]
    assert named("a teddy bear", ["bear", "teddy", "teddy bear"]) == ["teddy bear"]
    assert named("hot air", ["hot dog", "air", "hot"]) == ["hot", "air"]


def test_names_that_match_the_same_words_all_count():
    assert named("two dogs", ["dog", "dogs", "Dog"]) == ["dog", "dogs", "Dog"]
    synonyms = {"cat": ["pet"], "dog": ["pet"]}
    assert named("a pet", ["dog", "cat"], synonyms=synonyms) == ["dog", "cat"]


def test_synonyms_are_plural_or_of_several_words_too_and_unasked_ones_are_unused():
    synonyms = {"Person": ["man", "fire fighter"], "sofa": ["couch"]}
    assert named("two men and fire fighters on a couch", ["person"], synonyms=synonyms) == ["person", "person"]
    assert named("a couch", ["dining_table"], synonyms={"Dining-Table": ["couch"], "dining table": ["desk"]}) == [
        "dining_table"
    ]
    assert named("a man", ["person"]) == []


def test_every_name_is_found_in_any_list_of_names():
    """A caption that lists real class names mentions each of them, in order."""
    assert named(", ".join(VOC), VOC) == VOC
    assert named(", ".join(VOC).upper(), VOC) == VOC


def test_names_agree_with_a_search_by_regular_expression():
    """A regular expression is the independent check for single words without irregular plurals."""
    captions = ["a dog and dogs", "hotdogs", "cat-dog", "cats, catalog, cat", "dog's", "DOG cat dog"]
    for caption in captions:
        expected = re.findall(r"(?<![a-z])(dog|cat)s?(?![a-z])", caption.lower())
        assert named(caption, ["dog", "cat"]) == expected, caption


def test_no_names_are_found_nowhere():
    assert mentions("a dog", []) == []


def test_pieces_are_found_by_position_and_breaks_part_them():
    pieces = split_words("hot dog, dog")
    assert pieces == ["hot", "dog", "dog"]
    assert find_names(pieces, ["dog", "hot dog"]) == [(1, 0, 2), (0, 2, 3)]
    assert find_names(pieces, ["dog", "hot dog"], breaks=[1]) == [(0, 1, 2), (0, 2, 3)]
    assert find_names(pieces, ["dog", "hot, dog"], breaks=[1]) == [(1, 0, 2), (0, 2, 3)]


def test_clauses_end_at_commas_not_at_hyphens():
    assert all(ends_clause(text) for text in (",", ".", "!", ")", "\n"))
    assert not any(ends_clause(text) for text in ("-", "/", "'", "_", ""))


def test_plurals_are_forms_and_the_forms_of_a_word_hold_it():
    words = json.loads('["dog", "bus", "people", "sheep", "stairs", "knife", "i", "men", "class"]')
    for word in words:
        assert {word} | plurals(word) <= forms(word)
    assert "child" in forms("children")
    assert forms("news") == {"news"}


def test_a_plural_of_ones_own_counts_at_once(monkeypatch):
    assert named("two smorgen", ["smorg"]) == []
    monkeypatch.setitem(IRREGULAR_PLURALS, "smorg", ("smorgen",))
    assert named("two smorgen", ["smorg"]) == ["smorg"]
    assert named("a smorg", ["smorgen"]) == ["smorgen"]


@pytest.mark.parametrize("name", ["", "  ", "🐶", "...", "_"])
def test_a_name_without_a_letter_is_refused(name):
    with pytest.raises(ValueError, match=r"a name must have a letter or digit; got '"):
        mentions("a dog", ["dog", name])
    with pytest.raises(ValueError, match=r"a name must have a letter or digit; got '"):
        mentions("a dog", ["dog"], synonyms={"dog": [name]})


def test_what_is_no_list_of_strings_is_refused(no_type_checker):
    with pytest.raises(TypeError, match=r"names must be a list of strings; got the string 'dog'. Pass \['dog'\]"):
        mentions("a dog", "dog")
    with pytest.raises(TypeError, match=r"names must be a list of strings, \(\) for none; got NoneType"):
        checked_names(None)
    with pytest.raises(TypeError, match=r"names must be a list of strings; got the string 'pup'"):
        mentions("a dog", ["dog"], synonyms={"dog": "pup"})
    with pytest.raises(TypeError, match=r"a name must be a string; got int"):
        mentions("a dog", ["dog", 3])  # type: ignore
    with pytest.raises(TypeError, match=r"a caption must be a string; got NoneType"):
        mentions(None, ["dog"])  # type: ignore


def test_checked_names_are_plain():
    assert checked_names(["dog"]) == (("dog",), None)
    assert checked_names(("dog",), {"dog": ("pup",)}) == (("dog",), {"dog": ["pup"]})
    with pytest.raises(ValueError, match=r"a letter or digit"):
        checked_names(["dog", "-"])
