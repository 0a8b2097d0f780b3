"""The worker process of test_sharding: a step with FSDP2, in which each of two processes has one image."""

from pathlib import Path

import torch
from builders import build_backbone, build_unet, images
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard

from tadp.errors import ModelError
from tadp.integrations import Pyramid


class Model(nn.Module):
    """A pyramid with a fixed text, and a head; the result is a loss."""

    def __init__(self):
        super().__init__()
        backbone = build_backbone(unet=build_unet(channels=(8, 16), layers_per_block=1), attach_attention=(0,))
        self.pyramid = Pyramid(backbone, text="a dog")
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.head = nn.Conv2d(self.pyramid.feature_info.channels[0], 4, 3)

    def forward(self, pixels: Tensor) -> Tensor:
        fine, coarse = self.pyramid(pixels)
        return self.head(fine).square().mean() + coarse.square().mean()


def step(rank: int, folder: str) -> None:
    """Train one step on this rank's image; save what came of it in `folder`."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    mesh = torch.distributed.init_device_mesh("cpu", (2,))
    messages = []
    for part in ("unet", "unet.up_blocks.0"):
        wrong = Model().train()
        fully_shard(wrong.pyramid.backbone.get_submodule(part), mesh=mesh)
        try:
            wrong(images(1, 64, 64))
        except ModelError as error:
            messages.append(str(error))
    model = Model().train()
    backbone = model.pyramid.backbone
    for part in backbone.parts_to_shard():
        fully_shard(part, mesh=mesh)
    fully_shard(model, mesh=mesh)
    try:
        backbone.save_pretrained(Path(folder) / f"model{rank}")
    except ModelError as error:
        messages.append(str(error))
    loss = model(images(1, 64, 64, seed=rank))
    loss.backward()
    gradients = {name: weight.grad.full_tensor() for name, weight in model.named_parameters() if weight.requires_grad}
    model.eval()
    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    result = {"loss": loss.item(), "gradients": gradients, "state": state, "messages": messages}
    torch.save(result, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()
