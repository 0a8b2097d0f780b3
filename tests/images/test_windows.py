"""Windows over a large image."""

import math
import weakref
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from tadp.files.checks import check_whole
from tadp.images.batches import Batches
from tadp.images.windows import WindowedPrediction, band_axis, mean_tiles, window_starts, windows_in_order

pytestmark = pytest.mark.usefixtures("one_thread")  # several threads only slow down the many small products


def read(prediction, tile_px):
    """Read the whole result tile by tile."""
    whole = None
    for rows, columns, values in mean_tiles([prediction], tile_px=tile_px):
        whole = torch.full((len(values), *prediction.size), math.nan) if whole is None else whole
        whole[:, rows, columns] = values
    return whole


def slow(predict, image, window, stride):
    """An independent version that sums over all windows on the whole canvas."""
    height, width = image.shape[2:]
    total, counts = None, torch.zeros(height, width)
    tops = sorted({min(t, max(height - window, 0)) for t in range(0, height, stride)})
    lefts = sorted({min(t, max(width - window, 0)) for t in range(0, width, stride)})
    for top in tops:
        for left in lefts:
            values = predict(image[:, :, top : top + window, left : left + window])[0]
            total = torch.zeros(values.shape[0], height, width) if total is None else total
            total[:, top : top + window, left : left + window] += values
            counts[top : top + window, left : left + window] += 1
            if left + window >= width:
                break
        if top + window >= height:
            break
    return total / counts


def seen_at(image, size):
    """The image, resized by torch."""
    return F.interpolate(image, size=size, mode="bilinear", antialias=True).clamp(0, 1)


def by_window(part):
    """A prediction that depends on its window, so that a wrong overlap changes the result."""
    return torch.cat([part - part.mean(), part.cumsum(3) / 10, part.flip(2)], dim=1)


def by_cell(part, cell=8):
    """A prediction like a head's: one value per cell; the last cell may extend beyond the edge."""
    return F.avg_pool2d(by_window(part), cell, ceil_mode=True)


def enlarged(part, cell=8, align_corners=False):
    """The result of `by_cell`, enlarged to the size of the window as heads do it."""
    values = F.interpolate(by_cell(part, cell), scale_factor=float(cell), mode="bilinear", align_corners=align_corners)
    return values[:, :, : part.shape[2], : part.shape[3]]


def random_image(*size, seed=0):
    return torch.rand(1, 1, *size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("tile_px", [7, 500])
@pytest.mark.parametrize(("size", "window", "stride"), [((40, 61), 16, 11), ((97, 33), 32, 32), ((10, 50), 16, 5)])
def test_windows_are_averaged_where_they_overlap(size, window, stride, tile_px):
    image = random_image(*size)
    result = read(WindowedPrediction(by_window, image, window=window, stride=stride), tile_px)
    torch.testing.assert_close(result, slow(by_window, image, window, stride))


@pytest.mark.parametrize(("size", "window", "stride"), [((40, 61), 16, 11), ((97, 33), 32, 32), ((10, 50), 16, 5)])
def test_tapered_windows_weigh_less_towards_their_border(size, window, stride):
    image, total, weights = random_image(*size), torch.zeros(3, *size), torch.zeros(size)
    for top in window_starts(size[0], window, stride):
        for left in window_starts(size[1], window, stride):
            part = image[:, :, top : top + window, left : left + window]
            distances = [torch.tensor([min(at, n - 1 - at) + 0.5 for at in range(n)]) for n in part.shape[2:]]
            weight = torch.outer(*distances)
            total[:, top : top + window, left : left + window] += weight * by_window(part)[0]
            weights[top : top + window, left : left + window] += weight
    result = read(WindowedPrediction(by_window, image, window=window, stride=stride, tapered=True), 7)
    torch.testing.assert_close(result, total / weights)


@pytest.mark.parametrize("tapered", [False, True])
@pytest.mark.parametrize("size", [None, (80, 100), (23, 31)])
def test_a_constant_stays_constant(tapered, size):
    options = {"window": 18, "stride": 5, "size": size, "cell_px": 8, "tapered": tapered}
    constant = WindowedPrediction(lambda part: torch.full_like(by_cell(part), 3.0), random_image(45, 61), **options)
    torch.testing.assert_close(read(constant, 13), torch.full((3, 45, 61), 3.0))


@pytest.mark.parametrize(("window", "stride"), [(48, 16), (48, 32)])
def test_tapered_windows_show_no_seams(window, stride):
    """Each window predicts a constant of its own, so that all steps between pixels come from the windows' borders."""
    steps = {}
    for tapered in (False, True):
        image = random_image(96, 160)
        options = {"window": window, "stride": stride, "tapered": tapered}
        result = read(WindowedPrediction(lambda part: torch.full_like(part, part[0, 0, 0, 0]), image, **options), 500)
        steps[tapered] = max(result.diff(dim=1).abs().max(), result.diff(dim=2).abs().max())
    assert steps[True] < steps[False] / 4


@pytest.mark.parametrize("tile_px", [13, 500])
@pytest.mark.parametrize("size", [(80, 100), (23, 31), (45, 61), (70, 40)])
@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("corners", [False, True])
def test_tiles_are_the_whole_of_an_image_that_is_seen_at_another_size(size, tile_px, flipped, corners):
    image = random_image(45, 61, seed=1)
    options = {"window": 18, "stride": 10, "size": size, "flipped": flipped, "cell_px": 8, "align_corners": corners}
    result = read(WindowedPrediction(by_cell, image, **options), tile_px)
    seen = seen_at(image, size)
    whole = slow(partial(enlarged, align_corners=corners), seen.flip(3) if flipped else seen, 18, 10)[None]
    whole = F.interpolate(whole.flip(3) if flipped else whole, size=(45, 61), mode="bilinear", align_corners=False)
    torch.testing.assert_close(result[None], whole)


def test_the_mean_of_views_is_that_of_the_whole():
    image = random_image(64, 40, seed=2)
    sizes = [(32, 20), (64, 40), (112, 70)]
    views = [
        WindowedPrediction(by_window, image, window=24, stride=16, size=size, flipped=flipped)
        for size in sizes
        for flipped in (False, True)
    ]
    expected = torch.zeros(3, 64, 40)
    for size in sizes:
        for flipped in (False, True):
            seen = seen_at(image, size)
            whole = slow(by_window, seen.flip(3) if flipped else seen, 24, 16)[None]
            whole = F.interpolate(whole.flip(3) if flipped else whole, size=(64, 40), mode="bilinear")
            expected += whole[0].softmax(0) / 6
    for rows, columns, values in mean_tiles(views, finish=lambda values: values.softmax(0), tile_px=17):
        torch.testing.assert_close(values, expected[:, rows, columns])


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("size", [(64, 90), (90, 64)])
def test_each_window_is_predicted_once(size, flipped):
    seen = []
    options = {"window": 32, "stride": 16, "size": (64, 64), "flipped": flipped}
    prediction = WindowedPrediction(lambda part: seen.append(1) or part, random_image(*size), **options)
    read(prediction, 11)
    assert len(seen) == 9


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("size", [(1000, 40), (40, 1000)])
def test_only_the_windows_of_a_band_are_kept(size, flipped):
    prediction = WindowedPrediction(lambda part: part, random_image(*size), window=20, stride=10, flipped=flipped)
    kept = []
    for _ in mean_tiles([prediction], tile_px=20):
        kept.append(len(prediction._kept))
    assert len(kept) == 100
    assert max(kept) <= 3 * 5  # three windows across, and five along that touch 20 pixels and one on each side


def batched_views(batches, image, text=None):
    return [
        WindowedPrediction(batches, image, window=24, stride=16, size=size, flipped=flipped, text=text)
        for size in ((20, 33), (64, 90), (112, 130))
        for flipped in (False, True)
    ]


@pytest.mark.parametrize("size", [(64, 90), (90, 64)])
@pytest.mark.parametrize("batch_size", [1, 3, 7, 1000])
def test_windows_of_all_views_of_several_images_are_predicted_in_batches(size, batch_size):
    calls = {(20, 24): [], (24, 24): []}

    def predict(windows, texts):
        calls[tuple(windows.shape[2:])].append(len(windows))
        return torch.cat([by_window(part) + text for part, text in zip(windows.split(1), texts, strict=True)])

    batches = Batches(predict, batch_size)
    images = [random_image(*size, seed=seed) for seed in range(3)]
    of_images = [batched_views(batches, image, text=number) for number, image in enumerate(images)]
    for views in of_images:
        batches.expect(windows_in_order(views, tile_px=11))
    counts = {(20, 24): 0, (24, 24): 0}
    for view in of_images[0]:
        counts[tuple(side.side for side in view.sides)] += len(view.sides[0].starts) * len(view.sides[1].starts)
    waiting = 0
    for number, views in enumerate(of_images):
        alone = batched_views(by_window, images[number])
        for tile, expected in zip(mean_tiles(views, tile_px=11), mean_tiles(alone, tile_px=11), strict=True):
            assert tile[:2] == expected[:2]
            torch.testing.assert_close(tile[2], expected[2] + number, rtol=0, atol=1e-5)
            kept = sum(len(view._kept) for views in of_images[number:] for view in views)
            waiting = max(waiting, kept - sum(len(view._kept) for view in alone))
    assert waiting <= 2 * (batch_size - 1)
    for shape, sizes in calls.items():
        assert sum(sizes) == 3 * counts[shape]
        assert len(sizes) == math.ceil(sum(sizes) / batch_size)
        assert max(sizes) <= batch_size


def test_bands_lie_across_the_shorter_side():
    assert band_axis((100, 30)) == 0
    assert band_axis((30, 100)) == 1


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all storages that are alive."""

    def __init__(self):
        super().__init__()
        self.known, self.alive, self.peak = set(), 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, torch.Tensor) and value.untyped_storage()._cdata not in self.known:
                self._count(value.untyped_storage())
        self.peak = max(self.peak, self.alive)
        return result

    def _count(self, storage):
        self.known.add(storage._cdata)
        self.alive += storage.nbytes()
        weakref.finalize(storage, self._release, storage._cdata, storage.nbytes())

    def _release(self, key, size):
        self.known.discard(key)
        self.alive -= size


def peak_bytes(height, width, *, classes=150):
    image = torch.zeros(1, 3, height, width)
    with LiveBytes() as live:
        views = [
            WindowedPrediction(
                lambda part: torch.zeros(1, classes, *(math.ceil(side / 8) for side in part.shape[2:])),
                image,
                window=64,
                stride=43,
                size=(round(height * scale), round(width * scale)),
                flipped=flipped,
                cell_px=8,
            )
            for scale in (0.5, 1.5)
            for flipped in (False, True)
        ]
        for _ in mean_tiles(views, finish=lambda values: values.softmax(0), tile_px=32):
            pass
    return live.peak


def test_memory_does_not_grow_with_the_length_of_the_image():
    short, long = peak_bytes(96, 200), peak_bytes(96, 600)
    assert long < 1.2 * short
    assert peak_bytes(600, 96) < 1.2 * short
    assert 150 * 32 * 32 * 4 < long < 150 * 96 * 600 * 4 / 4  # a tile, and a quarter of the scores of one view


@pytest.mark.parametrize("rows", [slice(0, 65), slice(3, 3), slice(-1, 8)])
def test_a_tile_that_is_not_in_the_image_is_refused(rows):
    prediction = WindowedPrediction(lambda part: part, random_image(64, 8), window=8)
    with pytest.raises(ValueError, match=r"a tile must lie inside the image, \(64, 8\) pixels"):
        prediction.tile(rows, slice(0, 8))


@pytest.mark.parametrize("stride", [0, 33])
def test_a_stride_that_leaves_gaps_is_refused(stride):
    with pytest.raises(ValueError, match=f"1 to the window's side, 32; got {stride}"):
        window_starts(100, 32, stride)


@pytest.mark.parametrize("value", [0, -1])
def test_a_size_under_one_is_refused(value):
    with pytest.raises(ValueError, match=f"window_px must be 1 pixel or more; got {value}."):
        check_whole(value, name="window_px", unit="pixel")


@pytest.mark.parametrize("value", [1.5, 512.0, "512", True, None])
def test_a_size_that_is_no_integer_is_refused(value, no_type_checker):
    with pytest.raises(TypeError, match="window_px must be a whole number of pixels; got"):
        check_whole(value, name="window_px", unit="pixel")
