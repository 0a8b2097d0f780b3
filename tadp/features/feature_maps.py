"""Features, the output of a backbone, and `FeatureInfo`, the description of them that a head is built from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tadp.features.attention_maps import AttentionMaps, PooledMaps
from tadp.features.queries import RecordedQueries
from tadp.images.map_sizes import check_positive
from tadp.images.reading import ImageLike, to_tensor
from tadp.images.upsampling import Method, Upsampler, upsample
from tadp.web.page import attention_page, frame


@dataclass(frozen=True)
class FeatureInfo:
    """The shapes of a backbone's maps, from which a head is built. Level 0 is the finest.

    Attributes:
        channels: Number of channels of each level's map, including the channels of attached attention.
        reduction: Stride of each level's map: the width of a cell in pixels, such as (8, 16, 32, 64).

    Raises:
        TypeError: If an attribute is not a list of whole numbers, or is a set, which has no order.
        ValueError: If a number is below 1, or the attributes differ in length.
    """

    channels: tuple[int, ...]
    reduction: tuple[int, ...]

    def __post_init__(self) -> None:
        for name, numbers in (("channels", self.channels), ("reduction", self.reduction)):
            check_positive(name, numbers, "one whole number per level")
        if len(self.channels) != len(self.reduction):
            raise ValueError(
                f"channels and reduction must have one entry per level; got {len(self.channels)} channels and "
                f"{len(self.reduction)} reductions."
            )

    def __len__(self) -> int:
        return len(self.channels)


@dataclass(frozen=True, eq=False)
class Features:
    """The result of a backbone for a batch of images: feature maps and attention.

    Attributes:
        maps: One feature map per level that was computed, finest first. Each is (B, channels, ceil(H / reduction),
            ceil(W / reduction)), with the channels and reduction of its level in the backbone's `feature_info`.
        attention: The attached and recorded attention; None if attention was neither attached nor recorded.
        image_size: (height, width) of the images in pixels.
        vae_map: A map of the VAE encoder at half the stride of the finest level, (B, C, ceil(H / 4), ceil(W / 4)) for
            Stable Diffusion. It is not one of the levels, and carries no gradient. None unless the backbone was called
            with `vae_map=True`.
        levels: The level of each map. None means that `maps` has all levels, from 0 on.
        cells: By level, how many rows and columns of cells the image covers, as in `AttentionMaps`.
        queries: What `attend` needs, with the backbone's option `record_queries`. It refers to the backbone, so a copy,
            or a file with these features, does not have it.

    Raises:
        TypeError: If `maps` is not a list of tensors, or `image_size` not two whole numbers. A set has no order.
        ValueError: If `image_size` has a number below 1, or other than two.
    """

    maps: tuple[Float[Tensor, "_b _c _h _w"], ...]
    attention: AttentionMaps | None
    image_size: tuple[int, int]
    vae_map: Float[Tensor, "_b _c _h _w"] | None = None
    levels: tuple[int, ...] | None = None
    cells: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    queries: RecordedQueries | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"queries": None}

    def __post_init__(self) -> None:
        if not isinstance(self.maps, (list, tuple)):
            raise TypeError(f"maps must be a tuple with one tensor per level; got a {type(self.maps).__name__}.")
        check_positive("image_size", self.image_size, "(height, width) in pixels")
        if len(self.image_size) != 2:
            raise ValueError(f"image_size must be (height, width) in pixels; got {len(self.image_size)} numbers.")

    @property
    def by_level(self) -> dict[int, Float[Tensor, "b _c _h _w"]]:
        """The maps by the number of their level, finest first."""
        return dict(zip(range(len(self.maps)) if self.levels is None else self.levels, self.maps, strict=True))

    def attend(self, names: Sequence[str], level: int | None = None) -> PooledMaps:
        """Return maps of words that the text of the pass need not contain.

        Each name is encoded as a text of its own, and the recorded queries attend to its tokens as if they stood next
        to those of the text: one softmax over the tokens of the text and of all names. A name's map is the mean over
        its tokens, as in `AttentionMaps.pool`. The names do not change the features, and the text does not change the
        keys of the names. Maps depend on which other names are given, because names compete with each other.

        Args:
            names: The K words or names, such as `["dog", "fence"]`, in the order of the channels.
            level: A level whose queries were recorded; None is the finest.

        Returns:
            The maps, (B, K, h, w), in [0, 1]. `present` says which names the text contains; it is False for all names
            of a text whose words are not known.

        Raises:
            ValueError: If no queries were recorded, the level was not recorded, or `names` is empty.
            TypeError: If a name is not a string, or `names` is a single string.
            CaptionError: If a name has more tokens than the text encoder takes.
        """
        queries = self.recorded_queries()
        number = min(queries.layers) if level is None else level
        maps, present = queries.attend(names, number), torch.zeros(len(self.maps[0]), len(names), dtype=torch.bool)
        if self.attention is not None and self.attention.spans is not None:
            present = self.attention.pool(names, number).present
        return PooledMaps(maps, tuple(names), present.to(maps.device))

    def upsample(
        self,
        size: tuple[int, int] | None = None,
        *,
        method: Method | Upsampler = "guided",
        image: ImageLike | Sequence[ImageLike] | None = None,
        levels: Sequence[int] | None = None,
    ) -> "Features":
        """Return the features with maps at another resolution, such as one value per pixel.

        Args:
            size: (height, width) of the new maps; None is that of the images.
            method: "guided" by the colours of the images, "bilinear", or a function; see
                `tadp.images.upsampling.upsample`.
            image: The images of the features, in any form that `tadp.images.to_tensor` reads, which "guided" and
                functions need.
            levels: The levels to upsample, finest first; None is all. The result only has these. A map of C channels
                takes 4 C height width bytes in float32, so choose few.

        Returns:
            Features with maps (B, C, height, width). Attention stays as it is.

        Raises:
            ImageError: If an image cannot be read.
            ValueError: If the method is unknown, a level was not computed, or the images are missing or do not fit.
        """
        numbers = tuple(self.by_level if levels is None else levels)
        for level in numbers:
            if level not in self.by_level:
                raise ValueError(f"no map of level {level}; these features have levels {tuple(self.by_level)}.")
        pixels = None if image is None else to_tensor(image)
        if pixels is not None and tuple(pixels.shape[2:]) != self.image_size:
            raise ValueError(f"these are features of images of {self.image_size}; got {tuple(pixels.shape[2:])}.")
        maps = (
            upsample(
                self.by_level[level], size or self.image_size, method=method, image=pixels, cells=self.cells.get(level)
            )
            for level in numbers
        )
        return replace(self, maps=tuple(maps), levels=numbers, cells={})

    def recorded_queries(self) -> RecordedQueries:
        """The recorded queries.

        Raises:
            ValueError: If there are none.
        """
        if self.queries is None:
            raise ValueError(
                "these features have no queries. Build the backbone with record_queries=True and "
                "record_attention=(0, 1), and call it on whole images: features from files, copies and tiles have none."
            )
        return self.queries

    def broken(self) -> dict[int, str]:
        """The images whose features are NaN or infinite, by number in the batch, each with a sentence about it."""
        tensors = {f"the map of level {level}": level_map for level, level_map in self.by_level.items()}
        if self.attention is not None:
            tensors |= {f"the attention of level {level}": self.attention.at(level) for level in self.attention.levels}
        broken: dict[int, str] = {}
        for name, tensor in tensors.items():
            extremes = torch.stack(tensor.detach().aminmax())  # NaN if one value is, and much faster than `isfinite`
            if extremes.isfinite().all():
                continue
            finite = tensor.isfinite().flatten(1).all(dim=1)
            for number in (~finite).nonzero()[:, 0].tolist():
                broken.setdefault(
                    number,
                    f"{name} has NaN or infinity, in {str(tensor.dtype).removeprefix('torch.')}. If the model is in "
                    "float16, use float32 or bfloat16.",
                )
        return broken

    def to_html(
        self,
        image: ImageLike | None = None,
        *,
        index: int = 0,
        names: Sequence[str] = (),
        levels: Sequence[int] | None = None,
        layers: Mapping[str, int] | None = None,
        shown_layers: Sequence[str] | None = None,
    ) -> str:
        """Return an HTML page to explore the attention of one image in a browser, as docs/explore.md describes.

        The page is one file without network access. It has the words of the text, or the tokens if the words are not
        known. Each map is stored with 8 bits per cell, and the page states the largest error.

        Args:
            image: The image of the features; None shows only maps, because features have no pixels.
            index: Position of the image in the batch, counted from 0.
            names: Names to pool by, such as class names, which are shown below the words.
            levels: The levels that the page has; None is all that were recorded.
            layers: `backbone.layout.attention_layers`, from which the page knows the layers of recorded heads; None
                puts all heads of a level into one list.
            shown_layers: Layers whose heads the page has; None is all. Each head takes as much space as its level.

        Raises:
            ImageError: If the image cannot be read, or has another shape than the features' image.
            ValueError: If there is no attention, a level or layer was not recorded, `index` is not in the batch,
                attention is NaN or infinite, or there are `names` but the words are not known.
        """
        attention = self.attention
        if attention is None or not attention.maps:
            raise ValueError("these features have no attention; build the backbone with record_attention=(0, 1).")
        chosen = attention.levels if levels is None else tuple(levels)
        if not 0 <= index < len(attention.tokens):
            raise ValueError(f"index must be from 0 to {len(attention.tokens) - 1}, the images; got {index}.")
        return attention_page(
            {level: attention.at(level)[index] for level in chosen},
            image_size=self.image_size,
            tokens=attention.tokens[index],
            words=None if attention.spans is None else attention.spans[index],
            names=names,
            image=image,
            cells=attention.cells,
            head_maps={level: heads[index] for level, heads in attention.head_maps.items() if level in chosen},
            layers=layers,
            shown_layers=shown_layers,
        )

    def _repr_html_(self) -> str | None:
        """The first image's attention as a page, which notebooks show; None if it is missing or broken."""
        if self.attention is None or not self.attention.tokens or self.broken():
            return None
        return frame(replace(self, attention=replace(self.attention, head_maps={})).to_html())

    def __repr__(self) -> str:
        shapes = ", ".join(str(tuple(level_map.shape)) for level_map in self.maps)
        return f"Features(maps=({shapes}), attention={self.attention}, image_size={self.image_size})"
