"""A Stable Diffusion VAE encoder and U-Net as a vision backbone: images and captions in, features and attention out."""

from tadp.backbone.backbone import TADPBackbone as TADPBackbone
from tadp.backbone.fused import Fused as Fused
from tadp.backbone.fused import TimmMaps as TimmMaps
from tadp.backbone.options import BackboneOptions as BackboneOptions
from tadp.backbone.text_source import Text as Text

__all__ = ["BackboneOptions", "Fused", "TADPBackbone", "Text", "TimmMaps"]
