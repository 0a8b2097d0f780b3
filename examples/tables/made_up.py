"""Captions for any number of images, made up from the number of the image."""

COLOURS = ("red", "blue", "green", "white", "black", "brown", "yellow")
OBJECTS = ("dog", "car", "chair", "boat", "sheep", "bicycle", "bottle", "horse", "train", "plane", "sofa")
PLACES = ("on the grass", "in the water", "next to a building", "at night", "in a room")


def image_id(number: int) -> str:
    """The path of an image in a large data set."""
    return f"train/{number % 1000:03d}/{number:09d}.jpg"


def caption(number: int) -> str:
    """A caption in the style of BLIP-2 that is unique by its number."""
    first, second = OBJECTS[number % 11], OBJECTS[number * 7 % 11]
    return f"a {COLOURS[number % 7]} {first} and a {COLOURS[number * 3 % 7]} {second} {PLACES[number % 5]}, {number}"
