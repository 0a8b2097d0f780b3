"""What `tadp explore` shows: features of an image with two texts or models, their difference, and predictions.

`explorer` computes, `pictures` draws, and `gradio_page` is the page in the browser. Only the last one needs Gradio.
"""

from tadp.explore.explorer import MODES as MODES
from tadp.explore.explorer import Explorer as Explorer
from tadp.explore.explorer import Side as Side
from tadp.explore.explorer import Stopped as Stopped
from tadp.explore.explorer import View as View
from tadp.explore.gradio_page import serve as serve
from tadp.explore.pictures import component_pictures as component_pictures
from tadp.explore.pictures import difference_html as difference_html
from tadp.explore.pictures import feature_distances as feature_distances
from tadp.explore.pictures import view_html as view_html

__all__ = [
    "MODES",
    "Explorer",
    "Side",
    "Stopped",
    "View",
    "component_pictures",
    "difference_html",
    "feature_distances",
    "serve",
    "view_html",
]
