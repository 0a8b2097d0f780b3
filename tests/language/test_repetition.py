"""Captions, as models write them, that are loops and that are not."""

import pytest

from tadp.language.repetition import is_looping

LOOPS = [
    "a dog and a dog and a dog",
    "a dog and a dog and a dog and a dog and a dog",
    "A Dog and a dog, and a DOG",
    "a photo of a dog and a cat and a dog and a cat and a dog and a cat",
    "golden eagle, golden eagle, golden eagle, golden eagle, golde",
    "australian cattle dog - australian cattle dog - australian cattle dog - aus",
    "very very very very",
    "dog dog dog dog dog dog",
    "the dog, the dog, the dog",
    "a dog on the grass, a dog on the grass and a cat next to a dog on the grass",
    "There is a dog on the grass. There is a dog on the grass.",
    "A street. A bus stands on the left. a bus stands on the left!",
    "dogdogdog",
    "一只狗和一只狗和一只狗和一只狗",
    " ".join(["a red car and"] * 100),
]
CAPTIONS = [
    "",
    "a",
    "a cat and a dog and a bird",
    "a dog and a dog",
    "a man and a man on a bench next to a man",
    "a very very very big dog",
    "two people walking side by side by side",
    "a man in a red shirt, a man in a blue shirt and a man in a green shirt",
    "a man and woman sitting on a boat next to a man and woman sitting on a motorcycle",
    "a woman sitting at a table with a bottle of wine and a bottle of beer",
    "a living room with a chair, a bookcase, a coffee table, a chair, a table",
    "two pictures of a girl with her mouth open and a drawing of a girl with her mouth open",
    "there is a dog on the left, there is a cat on the right, and there is a bird in the middle",
    "a car and a tree. the car is on the left. it is plain and faces left. the tree is big. it is plain and faces left",
    "one, two, three, four; a b c d e f g",
    "a street with a car. it is plain and faces left. a bus next to the car. it is plain and faces left. a man who "
    "walks his dog past a red house with a garden full of flowers. it is plain and faces left",
    "the mississippi river, hahaha",
    "一只狗和一只狗",
    "一只黑色的狗,一只黑色的猫,一只黑色的鸟",
    "no no no, says the boy",
]


@pytest.mark.parametrize("text", LOOPS)
def test_loops(text):
    assert is_looping(text)


@pytest.mark.parametrize("text", CAPTIONS)
def test_captions_that_only_list_or_describe(text):
    assert not is_looping(text)


@pytest.mark.parametrize("block", ["dog", "red dog", "a dog and", "a dog on grass", "one two three four five six"])
def test_a_block_becomes_a_loop_with_enough_rounds(block):
    """A loop has three rounds, or four of a single word, also after other words and with any punctuation."""
    enough = 4 if len(block.split()) == 1 else 3
    for rounds in range(1, 8):
        for joint in (" ", ", ", " - "):
            assert is_looping("so here is: " + joint.join([block] * rounds)) == (rounds >= enough), rounds


def test_four_hundred_words_take_no_time_to_speak_of():
    words = " ".join(f"word{number % 397}" for number in range(400))
    assert not is_looping(words)
    assert is_looping(words + " dog dog dog dog")
