"""Adapters with which models of other frameworks use a backbone. Each imports its framework only when it is used.

All adapters are built on `Pyramid`, which is enough for plain PyTorch and Lightning. The others are in modules named
after their framework: `timm`, `transformers`, `smp`, `torchvision`, `detectron2`, `mmseg`.
"""

from tadp.integrations.pyramid import Pyramid as Pyramid

__all__ = ["Pyramid"]
