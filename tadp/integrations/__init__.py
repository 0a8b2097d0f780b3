"""Adapters that put the backbone into models of other frameworks. Each imports its framework only when it is used.

All of them are built on `Pyramid`, which is enough for plain PyTorch and Lightning. The others are in modules named
after their framework: `timm`, `transformers`, `smp`, `torchvision`, `detectron2`, `mmseg`.
"""

from tadp.integrations.pyramid import Pyramid as Pyramid

__all__ = ["Pyramid"]
