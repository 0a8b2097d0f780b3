"""The worker process of test_backbone's distributed test."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from builders import build_backbone, images
from torch.nn.parallel import DistributedDataParallel

ALL: Mapping[str, Any] = {"attach_attention": (0, 1, 2)}


def train_one_step(rank: int, world_size: int, folder: str, options: Mapping[str, Any] = ALL) -> None:
    """Run forward and backward passes on this rank's image, and save the gradients in `folder`."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size
    )
    backbone = build_backbone(text_adapter=True, **options).train()
    model = DistributedDataParallel(backbone)
    for text in ("a dog", None):  # DDP fails in the second pass if the first left a parameter without gradient
        model.zero_grad(set_to_none=True)
        with backbone.conditioning("a dog"):
            maps = model(images(1, 64, 64, seed=rank), text).maps
        sum(level_map.square().mean() for level_map in maps).backward()
    gradients = {name: parameter.grad for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    torch.save((torch.distributed.get_world_size(), gradients), Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()
