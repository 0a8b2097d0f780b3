"""Supervised attention: the cells of a dog attend to "dog", and cells without a named object to the other tokens."""

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPTokenizer

from tadp.datasets.scenes import CLASSES

GROUNDED_LEVELS = (0, 1)


def grounding_loss(attention: dict[int, Tensor], ids: Tensor, cells: Tensor, tokenizer: CLIPTokenizer) -> Tensor:
    """Cross-entropy between the classes in each cell and the tokens that it attends to, (B,).

    Args:
        attention: Attention maps by level, each (B, 77, h, w).
        ids: Token ids, (B, 77).
        cells: Shares of background and of each class in each cell of the finest level, (B, 13, 16, 16).
        tokenizer: Tokenizer, to find the tokens that name a class.
    """
    class_ids = torch.tensor([tokenizer.convert_tokens_to_ids(f"{name}</w>") for name in CLASSES])
    named = (ids[:, :, None] == class_ids).float()  # (B, 77, 12)
    tokens = torch.cat([1 - named.sum(dim=-1, keepdim=True), named], dim=-1)  # (B, 77, 13): other words, then classes
    mentioned = named.amax(dim=1)[:, :, None, None]
    target = torch.cat(
        [cells[:, :1] + (cells[:, 1:] * (1 - mentioned)).sum(dim=1, keepdim=True), cells[:, 1:] * mentioned], dim=1
    )
    losses = []
    for maps in attention.values():
        share = torch.einsum("blhw,blk->bkhw", maps, tokens)
        wanted = F.avg_pool2d(target, target.shape[-1] // maps.shape[-1])
        losses.append(-(wanted * share.clamp_min(1e-4).log()).sum(dim=1).mean(dim=(1, 2)))
    return torch.stack(losses).mean(dim=0)
