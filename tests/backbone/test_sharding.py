"""FSDP2 shards the parts that a pass calls: loss, gradients and weights are those of a model that is not sharded."""

import pytest
import torch
from builders import images, relative_error
from contracts import is_at_least
from fsdp_worker import Model, step
from running import fork_server
from torch.multiprocessing.spawn import start_processes


@pytest.mark.skipif(not is_at_least("torch", "2.9"), reason="torch 2.8 adds gradients of gloo's processes")
def test_two_processes_train_as_one_and_what_cannot_be_sharded_or_saved_is_explained(tmp_path):
    fork_server()
    start_processes(step, args=(str(tmp_path),), nprocs=2, start_method="forkserver")
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    plain = Model().train()
    losses = [plain(images(1, 64, 64, seed=rank)) for rank in range(2)]
    (sum(losses) / 2).backward()
    assert [rank["loss"] for rank in ranks] == pytest.approx([loss.item() for loss in losses], rel=1e-5)
    expected = {name: weight.grad for name, weight in plain.named_parameters() if weight.requires_grad}
    for rank in ranks:
        assert rank["gradients"].keys() == expected.keys()
        assert all(relative_error(rank["gradients"][name], gradient) < 1e-5 for name, gradient in expected.items())
        whole, block, saved = rank["messages"]
        assert whole.startswith("the unet is sharded as a whole, but tadp takes maps between its layers")
        assert block.startswith("up_blocks.0 in the unet is sharded as a whole")
        assert "backbone.parts_to_shard()" in block
        assert saved.startswith("the VAE cannot be saved, because its weights are sharded. Gather them")
    state = plain.state_dict()
    assert ranks[0]["state"].keys() == state.keys()
    assert all(torch.equal(ranks[0]["state"][name], tensor) for name, tensor in state.items())
