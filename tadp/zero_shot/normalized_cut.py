"""Masks without names: `tadp.zero_shot.regions` divides an image by normalized cuts of self-attention."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tadp.backbone import TADPBackbone
from tadp.backbone.feature_model import refuse_name
from tadp.backbone.text_source import Text
from tadp.errors import Argument, OptionError
from tadp.features import resized
from tadp.images.reading import ImageLike
from tadp.zero_shot.name_masks import record

_CUTS = 32  # places at which an eigenvector is cut on trial


@torch.no_grad()
def regions(
    image: ImageLike,
    backbone: TADPBackbone,
    *,
    text: Text | None = "",
    level: int | None = None,
    threshold: float = 0.4,
    largest: int = 4096,
) -> Int[Tensor, "h w"]:
    """Divide an image into regions whose cells attend to each other, without names and without training.

    The cells of a level are the nodes of a graph. The weight of an edge is the self-attention of one cell to the other,
    averaged over both directions, heads and layers. The graph is cut in two where the normalized cut is smallest, and
    so is each part again, until the best cut of a part costs more than `threshold`.

    Args:
        image: One image, in any form that `tadp.images.to_tensor` reads.
        backbone: The backbone to run. Its options for attention do not matter; they are replaced.
        text: The text of the pass, as in a call of the backbone. "" is the empty prompt.
        level: The level whose self-attention is cut; None is the finest with attention. The time grows with the cube of
            the number of cells, so choose a level with about a thousand: level 1 for Stable Diffusion at 512 pixels.
        threshold: The cost of a cut, from 0 to 2, above which a part is not divided: more gives more regions.
        largest: The most cells that the level may have.

    Returns:
        The number of the region of each pixel, (H, W), from 0, the largest region first.

    Raises:
        ImageError, CaptionError: If the image or the text cannot be read.
        OptionError: If `threshold` is not from 0 to 2, or the level has more than `largest` cells.
        TypeError, ValueError: If `backbone` is a name instead of a backbone, or records no queries at the level.

    Source:
        Normalized cut: Shi and Malik (2000). Recursive, on a diffusion model: DiffCut (arXiv:2406.02842), which cuts
        the similarity of features instead. The default of `threshold` was chosen on 30 rendered scenes.
    """
    refuse_name(backbone)
    if not 0 <= threshold <= 2:
        raise OptionError(Argument("threshold"), f" must be from 0 to 2; got {threshold}.")
    chosen = min(backbone.layout.attention_levels) if level is None else level
    features = record(backbone, image, text, (chosen,))
    height, width = features.maps[0].shape[2:]
    if height * width > largest:
        raise OptionError(
            Argument("level"), f" {chosen} has {height * width} cells, more than {largest}. Choose a coarser level."
        )
    attention = features.recorded_queries().self_attention(chosen)[0]
    labels = recursive_cut((attention + attention.T) / 2, threshold)
    masks = F.one_hot(labels).T.unflatten(1, (height, width)).float()
    return resized(masks[None], features.image_size, cells=features.cells.get(chosen))[0].argmax(dim=0)


def recursive_cut(weights: Float[Tensor, "n n"], threshold: float) -> Int[Tensor, " n"]:
    """Divide a graph by normalized cuts until the next cut would cost more than `threshold`.

    Returns:
        The number of the part of each of the N nodes, the largest part first.
    """
    parts: list[Tensor] = []
    waiting = [torch.arange(len(weights), device=weights.device)]
    while waiting:
        nodes = waiting.pop()
        is_first, cost = best_cut(weights[nodes][:, nodes])
        if cost > threshold:
            parts.append(nodes)
        else:
            waiting += [nodes[is_first], nodes[~is_first]]
    labels = torch.zeros(len(weights), dtype=torch.long, device=weights.device)
    for number, nodes in enumerate(sorted(parts, key=len, reverse=True)):
        labels[nodes] = number
    return labels


def best_cut(weights: Float[Tensor, "n n"]) -> tuple[Tensor, float]:
    """The cut with the least cost, of those at `_CUTS` values of the second eigenvector of the normalized Laplacian.

    Returns:
        Whether each node is in the first part, (N,), bool; and the cost, cut / volume of one part + cut / volume of the
        other, which is infinite for a graph that cannot be cut.
    """
    nothing = torch.ones(len(weights), dtype=torch.bool, device=weights.device), float("inf")
    if len(weights) < 2:
        return nothing
    degrees = weights.sum(dim=1)
    scale = degrees.clamp(min=1e-12).rsqrt()
    _, vectors = torch.linalg.eigh((scale[:, None] * weights * scale).double())  # ascending: of D^-1/2 W D^-1/2
    second = vectors[:, -2] * scale
    low, high = second.min(), second.max()
    if not high > low:
        return nothing
    cuts = torch.linspace(0, 1, _CUTS + 2, device=weights.device, dtype=second.dtype)[1:-1] * (high - low) + low
    sides = (second[None] > cuts[:, None]).to(weights.dtype)  # (cuts, N)
    volumes = sides @ degrees
    crossing = volumes - ((sides @ weights) * sides).sum(dim=1)
    costs = crossing / volumes + crossing / (degrees.sum() - volumes)
    best = int(costs.argmin())
    return sides[best].bool(), float(costs[best])
