"""Masks of names from attention, without training: `tadp.zero_shot.segment`."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tadp.backbone import TADPBackbone
from tadp.backbone.feature_model import refuse_name
from tadp.backbone.text_source import Text
from tadp.errors import ImageError
from tadp.features import Features, resized
from tadp.images.reading import ImageLike


@dataclass(frozen=True, eq=False)
class NameMasks:
    """Masks of K names in an image.

    Attributes:
        labels: The label of each pixel, (H, W): 0 is background, k is `names[k - 1]`.
        scores: Attention of each pixel to each name, (K, H, W), in [0, 1].
        threshold: The score of a pixel's strongest name up to which the pixel is background.
        names: The K names.
    """

    labels: Int[Tensor, "h w"]
    scores: Float[Tensor, "k h w"]
    threshold: float
    names: tuple[str, ...]

    def __repr__(self) -> str:
        return f"NameMasks({', '.join(self.names)}; labels {tuple(self.labels.shape)})"


@torch.no_grad()
def segment(
    image: ImageLike,
    names: Sequence[str],
    backbone: TADPBackbone,
    *,
    text: Text | None = "",
    levels: Sequence[int] | None = None,
    spread: int = 1,
) -> NameMasks:
    """Segment an image into names, without training and without a caption that contains them.

    A name's map is `Features.attend`, averaged over the cells that each cell attends to in self-attention
    (`RecordedQueries.spread`), enlarged to the image and averaged over levels. A pixel belongs to the name with the
    highest map. It is background if this value is at most Otsu's threshold of the values of all pixels, which divides
    them into two groups with the least variance within the groups. So a part of every image is background, and another
    part is not: the rule does not notice that an image shows none of the names.

    Args:
        image: One image, in any form that `tadp.images.to_tensor` reads.
        names: The K names, such as `["dog", "grass"]`.
        backbone: The backbone to run. Its options for attention do not matter; they are replaced.
        text: The text of the pass, as in a call of the backbone. "" is the empty prompt.
        levels: The levels whose attention is used; None is the two finest that have attention to the text.
        spread: How often the maps are averaged with self-attention; 0 leaves it out.

    Raises:
        ImageError, CaptionError: If the image cannot be read, or a name is too long.
        TypeError: If `backbone` is a name instead of a backbone, or `names` is a single string.
        ValueError: If a level has no attention, `names` is empty, or the family of the model records no queries.

    Source:
        Attention of diffusion models as masks: DAAM (arXiv:2210.04885). Spreading it with self-attention: iSeg
        (arXiv:2409.03209), in another form. The threshold: Otsu (1979).
    """
    refuse_name(backbone)
    chosen = backbone.layout.attention_levels[:2] if levels is None else tuple(levels)
    features = record(backbone, image, text, chosen)
    queries = features.recorded_queries()
    parts = []
    for level in chosen:
        maps = features.attend(names, level).maps.float()
        for _ in range(spread):
            maps = queries.spread(maps, level)
        parts.append(resized(maps, features.image_size, cells=features.cells.get(level))[0])
    scores = torch.stack(parts).mean(dim=0)
    strongest, number = scores.max(dim=0)
    threshold = otsu(strongest)
    return NameMasks(torch.where(strongest > threshold, number + 1, 0), scores, threshold, tuple(names))


def record(backbone: TADPBackbone, image: ImageLike, text: Text | None, levels: Sequence[int]) -> Features:
    """The features of an image at some levels, with queries; an ImageError if they are NaN or infinite."""
    features = backbone.with_options(
        levels=levels, attach_attention=(), record_attention=levels, record_heads=False, record_queries=True
    )(image, text)
    for sentence in features.broken().values():
        raise ImageError(f"the image cannot be segmented: {sentence}")
    return features


def otsu(values: Tensor) -> float:
    """The threshold between two groups of values with the least variance within the groups.

    Source:
        N. Otsu, "A threshold selection method from gray-level histograms", 1979, on the values themselves.
    """
    ordered = values.flatten().double().sort().values
    below = torch.arange(1, len(ordered), device=values.device)
    sums, above = ordered.cumsum(dim=0), len(ordered) - below
    between = below * above * (sums[:-1] / below - (sums[-1] - sums[:-1]) / above) ** 2
    return float(ordered[between.argmax()]) if len(between) else 0.0
