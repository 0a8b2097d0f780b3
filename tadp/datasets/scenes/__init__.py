"""Rendered scenes: coloured objects on a ground plane, with all the labels that perception tasks need.

A scene is a small description that is drawn at random from a seed and an index. Rendering it gives the image, a class
mask, depth in metres, boxes and a caption. Nothing is downloaded. With the same versions of NumPy and Pillow, the same
seed and index always give the same pixels.

    scenes = Scenes(1000, seed=1)
    scene = scenes[0]
    scene.image, scene.mask, scene.depth_m, scene.boxes, scene.caption()
"""

from tadp.datasets.scenes.backdrops import BACKGROUNDS as BACKGROUNDS
from tadp.datasets.scenes.scene import MAX_DEPTH_M as MAX_DEPTH_M
from tadp.datasets.scenes.scene import STYLES as STYLES
from tadp.datasets.scenes.scene import Scene as Scene
from tadp.datasets.scenes.scene import SceneLayout as SceneLayout
from tadp.datasets.scenes.scene import Scenes as Scenes
from tadp.datasets.scenes.scene import Style as Style
from tadp.datasets.scenes.scene import restyle as restyle
from tadp.datasets.scenes.scene import sample_layout as sample_layout
from tadp.datasets.scenes.scene_objects import CLASSES as CLASSES
from tadp.datasets.scenes.scene_objects import COLORS as COLORS
from tadp.datasets.scenes.scene_objects import SceneObject as SceneObject

__all__ = [
    "BACKGROUNDS",
    "CLASSES",
    "COLORS",
    "MAX_DEPTH_M",
    "STYLES",
    "Scene",
    "SceneLayout",
    "SceneObject",
    "Scenes",
    "Style",
    "restyle",
    "sample_layout",
]
