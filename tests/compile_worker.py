"""What test_backbone_text runs in a process without the type checker, through which torch.compile does not see."""

import torch
from builders import build_backbone, embeddings, images, latents
from torch._dynamo.testing import CompileCounter

from tadp import Conditioning


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.maps, other.maps, strict=True))


with torch.no_grad():
    backbone, pixels = build_backbone(), images(2, 64, 64)
    counter = CompileCounter()
    compiled = torch.compile(backbone, backend=counter)
    for text in (["a dog", "a red cat"], ["on grass", "a blue raincoat"], ["", "a"]):
        with backbone.conditioning(text):
            print(same(compiled(pixels), backbone(pixels)), counter.frame_count)

    inputs = latents(2, 8, 8), Conditioning(embeddings(2, 77))
    noise = {"scheduler": {"beta_schedule": "linear"}, "timestep": (1, 261), "noise_samples": 1}
    for one in (backbone, build_backbone(**noise, combine_timesteps="concatenate")):
        whole = torch.compile(one.extract, backend="eager", fullgraph=True)
        print(same(whole(*inputs), one.extract(*inputs)))
