"""Maps at a higher resolution: bilinear, guided by the pixels of the image, or with an upsampler of your own."""

from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tadp.files.checks import check_choice
from tadp.images.map_sizes import resized

Upsampler: TypeAlias = Callable[[Tensor, Tensor, tuple[int, int]], Tensor]
Method: TypeAlias = Literal["guided", "bilinear"]
RADIUS = 2  # cells on each side that the guided filter reads
SIGMA_CELLS = 0.7  # standard deviation of its Gaussian of places, in cells
SIGMA_COLORS = 0.1  # standard deviation of its Gaussian of colours, for red, green and blue in [0, 1]


def upsample(
    maps: Float[Tensor, "b c h w"],
    size: tuple[int, int],
    *,
    method: Method | Upsampler = "guided",
    image: Float[Tensor, "b 3 _p _q"] | None = None,
    cells: tuple[float, float] | None = None,
) -> Float[Tensor, "b c _h _w"]:
    """Upsample maps to (height, width).

    A linear layer gives the same result before and after "bilinear" and "guided", up to rounding, because the weights
    of both sum to 1 and do not depend on the maps. So upsample the few outputs of a linear head rather than its many
    inputs.

    Args:
        maps: Maps (B, C, h, w).
        size: Height and width of the result. That of the image gives one value per pixel.
        method: "bilinear"; "guided", a joint bilateral filter (see `guided`); or a function of the image (B, 3, H, W)
            in [0, 1], the maps and the size that returns maps of this size. The function gets the image padded to whole
            cells, by repeating its edge.
        image: The images of the maps, in [0, 1]. "bilinear" does not need them.
        cells: How many rows and columns of cells the image covers, which need not be whole numbers, as in
            `Features.cells`; None is all of them.

    Returns:
        The maps at this size, (B, C, height, width), in their own dtype. Gradients flow back to the maps.

    Raises:
        ValueError: If the method is unknown, `size` is not two numbers of 1 or more, the image is missing or does not
            fit the maps, or the function returns another shape.
    """
    if not callable(method):
        check_choice(method, get_args(Method), name="method")
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size must be (height, width), each 1 or more; got {tuple(size)}.")
    if method == "bilinear":
        return resized(maps, size, cells=cells)
    if image is None or image.shape[0] != maps.shape[0]:
        got = "none" if image is None else f"{image.shape[0]} for {maps.shape[0]} maps"
        raise ValueError(f"this method is guided by the images; got {got}. Pass image=, or method='bilinear'.")
    image, covered = image.to(maps.device), cells or (maps.shape[2], maps.shape[3])
    if not callable(method):
        return guided(image, maps, size, cells=covered)
    whole = [round(side * n / part) for side, n, part in zip(size, maps.shape[2:], covered, strict=True)]
    result = method(_whole_cells(image, maps, covered), maps, (whole[0], whole[1]))
    if result.shape != (*maps.shape[:2], *whole):
        raise ValueError(
            f"the upsampler must return maps of shape {(*maps.shape[:2], *whole)}; it returned {tuple(result.shape)}."
        )
    return result[..., : size[0], : size[1]]


def guided(
    image: Float[Tensor, "b 3 p q"],
    maps: Float[Tensor, "b c h w"],
    size: tuple[int, int],
    *,
    cells: tuple[float, float] | None = None,
) -> Float[Tensor, "b c _h _w"]:
    """Upsample maps by joint bilateral filtering, so that they change where the colours of the image change.

    Each value of the result is a weighted mean of 5x5 cells. The weight of a cell is the product of two Gaussians: of
    its distance, and of the difference between its mean colour and that of the place in the image. One row of cells is
    computed at a time, so the memory beyond the result is that of 25 w C H' / h values for a row of w cells.

    Args:
        image: The images, (B, 3, H, W), in [0, 1].
        maps: Maps (B, C, h, w).
        size: Height and width of the result.
        cells: How many rows and columns of cells the image covers; None is all of them.

    Returns:
        The maps at this size, (B, C, height, width).

    Source:
        Kopf et al., "Joint Bilateral Upsampling", SIGGRAPH 2007, with the mean colours of cells as the coarse guide.
    """
    (height, width), (rows, columns) = maps.shape[2:], cells or (maps.shape[2], maps.shape[3])
    precise = maps.to(torch.promote_types(maps.dtype, torch.float32))
    colors = F.adaptive_avg_pool2d(_whole_cells(image, maps, (rows, columns)).to(precise.dtype), (height, width))
    fine, offsets = resized(image.to(precise.dtype), size), torch.arange(-RADIUS, RADIUS + 1, device=maps.device)
    near_y, far_y = _neighbours(size[0], rows, height, offsets)
    near_x, far_x = _neighbours(size[1], columns, width, offsets)
    result = precise.new_empty(*maps.shape[:2], *size).to(maps.dtype)
    for row in near_y[:, RADIUS].unique():
        lines = near_y[:, RADIUS] == row
        ys, xs = (row + offsets).clamp(0, height - 1), near_x.clamp(0, width - 1)
        differences = fine[:, :, lines, None, :, None] - colors[:, :, ys][:, :, None, :, xs]  # (B, 3, n, 5, W', 5)
        exponents = differences.square().sum(dim=1) / SIGMA_COLORS**2
        exponents = exponents + (far_y[lines].square()[:, :, None, None] + far_x.square()) / SIGMA_CELLS**2
        weights = (-exponents / 2).permute(0, 3, 1, 2, 4).flatten(3).softmax(dim=3)  # (B, W', n, 25)
        values = precise[:, :, ys][:, :, :, xs].permute(0, 3, 2, 4, 1).flatten(2, 3)  # (B, W', 25, C)
        result[:, :, lines] = (weights @ values).permute(0, 3, 2, 1).to(maps.dtype)
    return result


def _neighbours(size: int, cells: float, count: int, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """For each place of the result: the numbers of the cells around it, and their distances in cells, (size, 5)."""
    places = (torch.arange(size, device=offsets.device) + 0.5) * cells / size - 0.5
    near = places.round().long().clamp(0, count - 1)[:, None] + offsets
    return near, places[:, None] - near


def _whole_cells(image: Tensor, maps: Tensor, cells: tuple[float, float]) -> Tensor:
    """The image, padded by repeating its edge until it covers the last row and column of cells."""
    missing = [
        round(side * count / part) - side
        for side, count, part in zip(image.shape[2:], maps.shape[2:], cells, strict=True)
    ]
    return F.pad(image, (0, missing[1], 0, missing[0]), mode="replicate")
