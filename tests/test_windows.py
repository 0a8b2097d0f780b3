"""Windows over a large image."""

import pytest
import torch
import torch.nn.functional as F

from tadp.windows import WindowedPrediction, window_starts


def read(prediction, step):
    height = prediction.size[0]
    return torch.cat([prediction.rows(top, min(top + step, height)) for top in range(0, height, step)], dim=1)


def slow(predict, image, window, stride):
    """Sum over all windows on the whole canvas, written another way."""
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


def by_window(part):
    """Depends on the window it is in, so that a wrong overlap shows."""
    return torch.cat([part - part.mean(), part.cumsum(3), part.flip(2)], dim=1)


@pytest.mark.parametrize(("size", "window", "stride"), [((40, 61), 16, 11), ((97, 33), 32, 32), ((10, 50), 16, 5)])
def test_windows_are_averaged_where_they_overlap(size, window, stride):
    image = torch.rand(1, 1, *size, generator=torch.Generator().manual_seed(0))
    made = read(WindowedPrediction(by_window, image, window=window, stride=stride), 7)
    torch.testing.assert_close(made, slow(by_window, image, window, stride))


@pytest.mark.parametrize("step", [1, 13, 500])
@pytest.mark.parametrize("size", [(80, 100), (23, 31), (45, 61)])
def test_reading_at_another_size_is_resizing_the_whole(size, step):
    image = torch.rand(1, 1, 45, 61, generator=torch.Generator().manual_seed(1))
    made = read(WindowedPrediction(by_window, image, window=16, stride=10, size=size), step)
    whole = slow(by_window, image, 16, 10)[None]
    torch.testing.assert_close(made[None], F.interpolate(whole, size=size, mode="bilinear", align_corners=False))


def test_a_flipped_prediction_comes_back_the_right_way_round():
    image = torch.rand(1, 1, 24, 40, generator=torch.Generator().manual_seed(2))
    made = read(WindowedPrediction(lambda part: 2 * part, image, window=16, stride=10, flipped=True), 5)
    torch.testing.assert_close(made[None], 2 * image)


def test_no_window_is_the_whole_image_at_once():
    sizes = []
    image = torch.rand(1, 3, 30, 50)
    read(WindowedPrediction(lambda part: sizes.append(part.shape) or part, image, window=None), 30)
    assert sizes == [(1, 3, 30, 50)]


def test_only_a_strip_is_kept():
    image = torch.rand(1, 1, 1000, 20)
    prediction = WindowedPrediction(lambda part: part, image, window=20, stride=10)
    kept = []
    for top in range(0, 1000, 10):
        prediction.rows(top, top + 10)
        kept.append(prediction._kept.shape[1])
    assert max(kept) <= 40


def test_each_window_is_predicted_once():
    seen = []
    image = torch.rand(1, 1, 64, 64)
    prediction = WindowedPrediction(lambda part: seen.append(1) or part, image, window=32, stride=16, size=(90, 90))
    read(prediction, 1)
    assert len(seen) == 9


def test_reading_back_is_refused():
    prediction = WindowedPrediction(lambda part: part, torch.rand(1, 1, 64, 8), window=8, stride=8)
    prediction.rows(40, 48)
    with pytest.raises(ValueError, match="rows are read from top to bottom; row 0 was let go, the first is 40"):
        prediction.rows(0, 8)


@pytest.mark.parametrize("stride", [0, 33])
def test_a_stride_that_leaves_gaps_is_refused(stride):
    with pytest.raises(ValueError, match=f"1 to the window's side, 32; got {stride}"):
        window_starts(100, 32, stride)
