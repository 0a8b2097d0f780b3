import pytest

from tadp.grammar import article_for, content_words, is_plural, lower_first, upper_first, without_bullet, words_of


@pytest.mark.parametrize(
    ("phrase", "article"),
    [
        ("dog", "a"),
        ("owl on a branch", "an"),
        ("Old man", "an"),
        ("unicorn", "a"),
        ("university", "a"),
        ("uninteresting room", "an"),
        ("umbrella", "an"),
        ("used car", "a"),
        ("ukulele", "a"),
        ("European town", "a"),
        ("one-eyed cat", "a"),
        ("hour", "an"),
        ("house", "a"),
        ("<oil> style", "an"),
        ("8 dogs", "a"),
        ("MRI scan", "an"),
        ("SUV", "an"),
        ("UFO", "a"),
        ("NBA player", "an"),
        ("NASA rocket", "a"),
        ("RED DOG", "a"),
        ("OLD MAN", "an"),
        ("x-ray", "an"),
        ("X-ray of a hand", "an"),
        ("T-shirt", "a"),
        ("", "a"),
        ("שלום", "a"),
        ("🐶", "a"),
    ],
)
def test_articles_go_by_the_sound(phrase, article):
    assert article_for(phrase) == article


@pytest.mark.parametrize(
    ("text", "lowered"),
    [
        ("Paris at night", "Paris at night"),
        ("New York at night", "New York at night"),
        ("Dogs in snow", "dogs in snow"),
        ("T-shirt", "T-shirt"),
        ("The Eiffel Tower", "the Eiffel Tower"),
        ("London's streets", "London's streets"),
        ("Japanese food", "Japanese food"),
        ("A dog", "a dog"),
        ("TV", "TV"),
        ("iPhone", "iPhone"),
        ("I", "I"),
        ("I'm", "I'm"),
        ("", ""),
        ("  ", "  "),
    ],
)
def test_first_letters(text, lowered):
    assert lower_first(text) == lowered


@pytest.mark.parametrize(
    ("phrase", "plural"),
    [
        ("people on a beach", True), ("men", True), ("policewomen", True), ("dogs", True), ("geese in a row", True),
        ("glasses on a table", True), ("bus", False), ("buses", True), ("sports car", False), ("tennis racket", False),
        ("grass", False), ("canvas", False), ("lens", False), ("water", False), ("sheep", False),
        ("dress on a bed", False),
        ("", False),
    ],
)  # fmt: skip
def test_many_are_told_from_one(phrase, plural):
    assert is_plural(phrase) == plural


def test_upper_case_touches_one_letter():
    assert upper_first("a BMW") == "A BMW"
    assert upper_first("") == ""


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("- a dog", "a dog"),
        ("  a dog ", "a dog"),
        ("• a dog", "a dog"),
        ("20. Drawing of a cat", "Drawing of a cat"),
        ("3) a cat", "a cat"),
        ("3.5 tons of sand", "3.5 tons of sand"),
        ("20 dogs", "20 dogs"),
        ("-5 degrees", "-5 degrees"),
        ("-", "-"),
        ("", ""),
    ],
)
def test_marks_of_lists_go(text, plain):
    assert without_bullet(text) == plain


def test_words_in_any_script():
    assert words_of("A café, שלום 日本 🐶 - x_y") == ["a", "café", "שלום", "日本", "x", "y"]
    assert content_words("two dogs and שלום are shown on the grass", ignored={"grass"}) == ["dogs", "שלום"]
