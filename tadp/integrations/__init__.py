"""The backbone inside models of other frameworks: a thin module for each, which imports its framework when used.

`Pyramid` is what they share, and all that plain PyTorch and Lightning need. The others are in modules named after their
framework: `timm`, `transformers`, `smp`, `torchvision`, `detectron2`, `mmseg`.
"""

from tadp.integrations.pyramid import Pyramid as Pyramid

__all__ = ["Pyramid"]
