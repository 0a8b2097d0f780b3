"""Draw pictures with Pillow: heat maps of words, classes, depth and boxes over an image, and sheets of many pictures.

words = pixel_words(features, backbone.feature_info, levels=(0, 1))
word_sheet(image, words, caption).save("words.png")
class_picture(image, class_map, names).save("classes.png")
"""

from tadp.drawing.canvas import class_color as class_color
from tadp.drawing.canvas import sheet as sheet
from tadp.drawing.heatmaps import SKIPPED_WORDS as SKIPPED_WORDS
from tadp.drawing.heatmaps import overlay as overlay
from tadp.drawing.heatmaps import pixel_words as pixel_words
from tadp.drawing.heatmaps import word_sheet as word_sheet
from tadp.drawing.overlays import SHORT_PX as SHORT_PX
from tadp.drawing.overlays import box_picture as box_picture
from tadp.drawing.overlays import class_picture as class_picture
from tadp.drawing.overlays import depth_picture as depth_picture
from tadp.drawing.overlays import match_picture as match_picture

__all__ = [
    "SHORT_PX",
    "SKIPPED_WORDS",
    "box_picture",
    "class_color",
    "class_picture",
    "depth_picture",
    "match_picture",
    "overlay",
    "pixel_words",
    "sheet",
    "word_sheet",
]
