"""Cleaning by rules, its report, and the checks of a language model's answers."""

import re
import time
import warnings

import pytest

from tadp.cleaning import DOMAINS, CleaningInterrupted, CleaningReport, Domain, RuleCleaner
from tadp.cleaning.answers import AnswerError, check_answer, instruction, numbered, read_numbered
from tadp.cleaning.chat import holds, without
from tadp.errors import CaptionError

WATERCOLOR = {
    "a watercolor painting of a dog": "a dog",
    "a watercolour of the sea": "the sea",
    "- a depiction of a baby wearing a blue hat": "a baby wearing a blue hat",
    "two sketches of people in purple clothes": "people in purple clothes",
    "three watercolor paintings of nude women": "nude women",
    "a black and white drawing of a bicycle": "a bicycle",
    "a watercolor-style portrait of a dog": "a dog",
    "an owl in the style of a watercolor": "an owl",
    "a dog, in the style of a watercolour painting, on grass": "a dog, on grass",
    "two men in suits and ties are shown in watercolor": "two men in suits and ties",
    "- a woman's face shown in a watercolor effect": "a woman's face",
    "a dog painted with watercolors and ink": "a dog",
    "a woman is in a painting": "a woman",
    "a painting of a woman with watercolor": "a woman",
    "hummingbird watercolor painting": "hummingbird",
    "marilyn monroe watercolor painting": "marilyn monroe",
    "an owl on a branch with watercolor splatters": "an owl on a branch with splatters",
    "a watercolor octopus": "an octopus",
    "A watercolour-style dog.": "A dog.",
    "a dog with a watercolor effect": "a dog",
    "a room with a watercolor painting": "a room with a painting",
    "an aquarelle horse": "a horse",
    "A watercolor painting of a Chihuahua dog.": "A Chihuahua dog.",
    "a man holding an aquarelle of a cat": "a man holding a picture of a cat",
    "a person holding a watercolor painting of a bird": "a person holding a painting of a bird",
    "a watercolor painting of שלום 🐶": "שלום 🐶",
    "a watercolor painting of a sign with שלום on it": "a sign with שלום on it",
}
COMIC = {
    "a comic strip with a woman and a man": "a woman and a man",
    "a cartoon character is standing next to a girl": "a character is standing next to a girl",
    "a cartoon owl": "an owl",
    "a page from the comic book, with a woman in a dress": "a woman in a dress",
    "- cover of a comic book with a group of people": "a group of people",
    "a cartoon about the importance of education": "the importance of education",
    "a comic strip shows a person in a boat": "a person in a boat",
    "a man and his wife in a comic strip": "a man and his wife",
    "a boy with a comic book": "a boy with a book",
    "the manga page shows a scene of a car": "a scene of a car",
    "20. Drawing of man with glasses and tie": "Man with glasses and tie",
    "two anime girls with a speech bubble": "two girls with a speech bubble",
    "a dog in cartoon style": "a dog",
    "a comic style owl": "an owl",
    "a man is shown with a comic book": "a man is shown with a book",
    "a lamp, a comic book, and a pen": "a lamp, a book, and a pen",
}
NIGHT = {
    "a street at night with cars": "a street with cars",
    "at night, a car": "a car",
    "a dark night photo of a car": "a car",
    "a photo of a street at night": "a photo of a street",
    "a dark blue car on a dark street": "a dark blue car on a street",
    "a woman with dark hair in the dark": "a woman with dark hair",
    "a dark and stormy street": "a stormy street",
    "a wet and dark street": "a wet street",
    "a night view of an old city": "an old city",
}
FOGGY = {
    "a foggy photo of a car on the street": "a car on the street",
    "cars on a foggy day": "cars",
    "a street covered in thick fog": "a street",
    "a misty old road": "an old road",
}
DASHCAM = {"a dashcam photo of a car": "a car", "a car seen from a dash cam": "a car"}
CASES = {"watercolor": WATERCOLOR, "comic": COMIC, "night": NIGHT, "foggy": FOGGY, "dashcam": DASHCAM}
UNTOUCHED = {
    "watercolor": ["a man painting in a field", "a woman painting a wall", "a person drawing a portrait of a man"],
    "comic": ["a man and woman in an art gallery", "a comical dog", "a girl reading a book"],
    "night": ["a knight on a nightstand", "a woman with dark hair", "a dark brown dog"],
    "foggy": ["a frog on a log"],
    "dashcam": ["a car in front of a dashboard"],
}
STUCK = {
    "watercolor": [
        "a watercolor", "watercolor", "Watercolor!", "a watercolor hanging on a wall", "a girl with watercolors",
        "a girl with a watercolor", "a wall covered with watercolors", "a watercolor \0 dog",
    ],
    "comic": [
        "a comic strip", "Spanish political cartoon", "the page from the comic book is shown",
        "a man covered in comics", "a cartoon style is nice",
    ],
    "night": ["the street is dark", "night"],
    "dashcam": ["a dashcam"],
}  # fmt: skip
COMPOUNDS = {
    "watercolor": {
        "a watercolor set and a brush": "a watercolor set and a brush",
        "a girl with Water-Colour paints": "a girl with Water-Colour paints",
        "a watercolor painting of a girl with a watercolor set": "a girl with a watercolor set",
    },
    "comic": {
        "a comic book store": "a comic book store",
        "a comic strip of two comic-book stores": "two comic-book stores",
        "a comics convention": "a comics convention",
    },
    "night": {
        "a night club": "a night club",
        "people dance at a night club at night": "people dance at a night club",
        "a night heron on a dark blue car": "a night heron on a dark blue car",
    },
    "foggy": {"a car with fog lights in the fog": "a car with fog lights"},
}


@pytest.mark.parametrize(
    ("domain", "caption", "cleaned"), [(name, *pair) for name, pairs in CASES.items() for pair in pairs.items()]
)
def test_mentions_are_dropped_grammatically(domain, caption, cleaned):
    report = RuleCleaner(domain).clean(caption)
    assert report.after == (cleaned,)
    assert report.naming_after == ()
    assert not report.failures


@pytest.mark.parametrize(
    ("domain", "caption"), [(name, caption) for name, captions in UNTOUCHED.items() for caption in captions]
)
def test_what_does_not_name_the_domain_stays(domain, caption):
    report = RuleCleaner(domain).clean([caption])
    assert report.after == (caption,)
    assert not report.failures


@pytest.mark.parametrize(
    ("domain", "caption"), [(name, caption) for name, captions in STUCK.items() for caption in captions]
)
def test_what_cannot_be_dropped_stays_and_is_reported(domain, caption):
    report = RuleCleaner(domain).clean([caption])
    assert report.after == (caption,)
    assert report.failures.keys() == {0}
    assert report.naming_after == (0,)


@pytest.mark.parametrize(
    ("domain", "caption", "cleaned"), [(name, *pair) for name, pairs in COMPOUNDS.items() for pair in pairs.items()]
)
def test_a_thing_called_after_the_domain_stays_and_is_reported(domain, caption, cleaned):
    report = RuleCleaner(domain).clean(caption)
    assert report.after == (cleaned,)
    assert report.failures[0].endswith("is a compound with the domain's name, which no rule changes")
    assert report.naming_after == (0,)


def test_cleaning_twice_is_cleaning_once():
    for domain, pairs in CASES.items():
        cleaner = RuleCleaner(domain)
        once = cleaner.clean(list(pairs)).after
        assert cleaner.clean(once).after == once


def test_no_caption_is_lost_or_emptied():
    odd = [
        "",
        " ",
        "-",
        "- ",
        "1. ",
        "🐶",
        "watercolor 🐶",
        "of watercolor",
        "in a watercolor",
        "a",
        "\0",
        "\n\twatercolor\n",
    ]
    for domain in DOMAINS:
        report = RuleCleaner(domain).clean(odd)
        assert len(report.after) == len(odd)
        assert all(after.strip() or not before.strip() for before, after in zip(odd, report.after, strict=True))


def test_articles_never_double_or_stand_alone():
    for domain, pairs in CASES.items():
        for caption in RuleCleaner(domain).clean(list(pairs)).after:
            assert not re.search(
                r"\b(?:a|an|the) (?:a|an|the)\b|\ba [aeio]|\ban [^aeiouh]|\b(?:a|an|the|of)$|  ", caption
            )


def test_any_words_make_a_domain():
    cleaner = RuleCleaner(["woodcut", "lino cut"])
    assert cleaner(["a woodcut of a town", "lino cuts of a ship", "a woodcut-style print of an owl", "a town"]) == [
        "a town", "a ship", "an owl", "a town",
    ]  # fmt: skip
    domain = Domain("rain", nouns=("rain",), adjectives=("rainy",), prepositions=("in",), settings=("day",))
    assert RuleCleaner(domain)(["cars in the rain", "a rainy street"]) == ["cars", "a street"]


def test_an_unknown_domain_is_refused_with_those_there_are():
    with pytest.raises(CaptionError, match=r"unknown domain 'oil'; there are watercolor, comic, night, foggy, dashcam"):
        RuleCleaner("oil")
    with pytest.raises(CaptionError, match=r"a domain must have at least one word"):
        RuleCleaner([])
    with pytest.raises(CaptionError, match=r"a domain must have at least one word, and no empty ones"):
        RuleCleaner([""])


def test_captions_that_are_none_are_refused(no_type_checker):
    cleaner = RuleCleaner("comic")
    for wrong, message in (
        (["a", None], r"got NoneType as caption 1"),
        (5, r"got int"),
        ([b"a"], r"got bytes as caption 0"),
    ):
        with pytest.raises(TypeError, match=message):
            cleaner(wrong)
    assert cleaner([]) == []


def test_one_string_is_one_caption():
    assert RuleCleaner("comic")("a cartoon cat") == ["a cat"]


def test_a_call_warns_of_what_stayed():
    with pytest.warns(
        UserWarning, match=r"1 of 2 captions could not be cleaned.*caption 1 \('a comic'\): .*nothing else"
    ):
        assert RuleCleaner("comic")(["a cartoon dog", "a comic"]) == ["a dog", "a comic"]


def test_long_and_repetitive_captions_take_no_time():
    long = ["comic " * 2000, "a " + "black and white " * 1000, "x" * 50000, "in a " * 2000, "a page of " * 1000]
    assert len(RuleCleaner("comic").clean(long)) == 5


# The report


def test_the_report_counts_what_changed():
    before = ("a watercolor painting of a red dog", "a drawing of a cat", "a bird", "a watercolor")
    after = ("a dog", "a cat", "a bird", "a watercolor")
    report = CleaningReport(DOMAINS["watercolor"], before, after, {3: "why"})
    assert report.changed == (0, 1)
    assert report.naming_before == (0, 3)
    assert report.naming_after == (3,)
    assert report.content_changed == (0,)  # "red" is gone; "drawing" is the domain's own word
    assert report.summary().splitlines() == [
        "4 captions, domain 'watercolor': 2 changed, 1 failed",
        "name the domain: 2 (50.0%) before, 1 (25.0%) after",
        "content words changed: 1 (25.0%)",
        "words lost besides the domain's own: red 1",
        "  caption 3: why",
    ]
    assert len(report) == 4


def test_words_that_are_the_domains_only_in_a_phrase_count_as_lost():
    """The book in "comic book" is a word of the domain; any other book is not."""
    before = ("a girl with a comic book", "a comic of a girl with a book", "a comic of a black dog and a black cat")
    report = CleaningReport(DOMAINS["comic"], before, ("a girl with a book", "a girl", "a dog and a cat"), {})
    assert report.words_lost == {"book": 1, "black": 2}
    assert report.content_changed == (1, 2)
    gained = CleaningReport(DOMAINS["comic"], ("a comic of a dog",), ("a dog and a cat",), {})
    assert gained.content_changed == (0,)
    assert not gained.words_lost
    night = CleaningReport(DOMAINS["night"], ("dark hair at night",), ("hair",), {})
    assert night.words_lost == {"dark": 1}  # "dark hair" does not name the night


def test_an_interrupted_cleaning_hands_over_what_it_has(monkeypatch):
    cleaner = RuleCleaner("comic")
    clean = cleaner._clean

    def stopping(text):
        if text == "a cartoon bird":
            raise KeyboardInterrupt
        return clean(text)

    monkeypatch.setattr(cleaner, "_clean", stopping)
    with pytest.raises(KeyboardInterrupt, match=r"interrupted; 2 of 4 captions are cleaned") as stopped:
        cleaner.clean(["a cartoon dog", "a cartoon bird", "a cartoon cow", "a cartoon dog"])
    assert isinstance(stopped.value, CleaningInterrupted)
    report = stopped.value.report
    assert report.after == ("a dog", "a cartoon bird", "a cartoon cow", "a dog")
    assert report.failures == {1: "interrupted", 2: "interrupted"}


def test_the_order_of_words_is_no_change_of_content():
    """The paper's own example changes the order: "an image of a bird and a dog"."""
    report = CleaningReport(DOMAINS["watercolor"], ("a watercolor of a dog and a bird",), ("a bird and a dog",), {})
    assert report.content_changed == ()


def test_a_report_has_a_caption_for_each():
    with pytest.raises(ValueError, match=r"one caption after cleaning for each before; got 0 for 1"):
        CleaningReport(DOMAINS["comic"], ("a",), (), {})
    assert "0 captions" in CleaningReport(DOMAINS["comic"], (), (), {}).summary()


def test_media_are_told_apart_from_the_domain():
    domain = DOMAINS["watercolor"]
    assert domain.named_in("Water colours of a dog")
    assert not domain.named_in("a drawing of a dog")
    assert domain.medium_in("two DRAWINGS")
    assert not DOMAINS["night"].named_in("dark-blue cars and a dark brown dog")
    assert not DOMAINS["night"].medium_in("a drawing")


# Answers of language models, and keys that must not show


@pytest.mark.parametrize(
    "spelling",
    ["sk-a/b+secret9", r"sk-a\/b+secret9", r"\u0073k-a/b+secret9", "sk-a%2Fb%2Bsecret9", "sk-a&#47;b&#43;secret9"],
)
def test_a_key_is_found_in_each_spelling(spelling):
    assert holds(f"it is {spelling}.", "sk-a/b+secret9")
    assert "secret9" not in without(f"it is {spelling}.", "sk-a/b+secret9")


def test_other_texts_stay_as_they_are():
    assert without("a dog", "sk-a/b+secret9") == without("a dog", None) == without("a dog", "do") == "a dog"
    assert without("a do g", "do") == "a *** g"


def test_a_numbered_list_goes_out_and_comes_back():
    captions = ["a dog", "2. a  cat\nand more", "שלום 🐶"]
    listed = numbered(captions)
    assert listed.splitlines() == ["1. a dog", "2. 2. a cat and more", "3. שלום 🐶"]
    assert read_numbered(listed, 3) == ["a dog", "2. a cat and more", "שלום 🐶"]


@pytest.mark.parametrize(
    "answer",
    ["1. a dog\n2. a cat", "Here you are:\n1) a dog\n2) a cat", "1: a dog\n\n2: a cat\n\nAnything else?\n3. no"],
)
def test_lists_are_read_as_models_write_them(answer):
    assert read_numbered(answer, 2) == ["a dog", "a cat"]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("", r"the answer has 0 captions for 2"),
        ("a dog\na cat", r"the answer has 0 captions for 2"),
        ("1. a dog", r"the answer has 1 captions for 2"),
        ("1. a dog\n1. a cat", r"unexpected line: '1\. a cat'"),
        ("2. a cat\n1. a dog", r"unexpected line: '2\. a cat'"),
        ("1. a dog\nwho runs\n2. a cat", r"unexpected line: 'who runs'"),
        ("1. a dog\n2. a cat\n3. a bird", r"the answer has 3 captions for 2"),
        ("1. a dog\n2. ", r"unexpected line: '2\.'"),
    ],
)
def test_other_lists_are_refused(answer, message):
    with pytest.raises(AnswerError, match=message):
        read_numbered(answer, 2)


def test_an_answer_has_to_be_an_edited_caption():
    domain = DOMAINS["watercolor"]
    assert check_answer("a watercolor of a dog", ' "a dog" ', domain) == "a dog"
    assert check_answer('"a dog"', '"a dog"', domain) == '"a dog"'
    assert check_answer("a watercolor", "an image", domain) == "an image"
    for answer, message in (
        ("", r"empty"),
        ('""', r"empty"),
        ("a dog " * 20, r"much longer"),
        ("a dog \ud83d", r"cannot be written as UTF-8: 'a dog \\ud83d'"),
        ("I cannot help", r"has none of the caption's words: 'I cannot help'"),
    ):
        with pytest.raises(AnswerError, match=message):
            check_answer("a watercolor of a dog", answer, domain)


def test_an_answer_is_not_that_of_a_neighbour():
    batch = ["a watercolor of a black dog on grass", "a watercolor of a black cat on sand", "a black dog", "a painting"]
    assert check_answer(batch[0], "a black dog on grass", DOMAINS["watercolor"], batch=batch) == "a black dog on grass"
    assert check_answer(batch[2], "a black dog", DOMAINS["watercolor"], batch=batch) == "a black dog"
    with pytest.raises(AnswerError, match=r"seems to be for another caption, 'a watercolor of a black cat on sand'"):
        check_answer(batch[0], "a black cat on sand", DOMAINS["watercolor"], batch=batch)


def test_the_model_is_told_the_words():
    assert "watercolor, watercolour" in instruction(DOMAINS["watercolor"])
    assert "foggy" in instruction(DOMAINS["foggy"])


def test_a_table_of_captions_is_not_cleaned_by_its_ids(no_type_checker):
    with pytest.raises(TypeError, match=r"captions must be a list; got dict. Pass list\(captions.values\(\)\)"):
        RuleCleaner("watercolor")({"a watercolor of a dog": "a cat"})


@pytest.mark.parametrize("part", [" ", "and ", ", ", "a ", "watercolor ", "ink ", "a painting of "])
def test_cleaning_a_long_caption_takes_little_time(part):
    text = "a watercolor" + part * (19_900 // len(part)) + " dog"
    start = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some cannot be cleaned
        RuleCleaner("watercolor")(text)
    assert time.monotonic() - start < 20  # it was minutes
    with pytest.raises(CaptionError, match="has 10000000 characters; at most 100000 are allowed"):
        RuleCleaner("watercolor")("a" * 10_000_000)


def test_numbers_of_five_thousand_digits_in_an_answer_are_refused():
    with pytest.raises(AnswerError, match="unexpected line"):
        read_numbered("1. a dog\n" + "9" * 5000 + ". a cat", 2)
    with pytest.raises(AnswerError, match="unexpected line"):
        read_numbered("1. a dog\n" + " " * 200_000 + "x", 2)
