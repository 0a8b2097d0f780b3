import torch
import torch.nn.functional as F
from builders_heads import INFO, build_linear, build_maps


def test_it_is_one_convolution_over_joined_maps():
    """Convolving before or after enlarging gives the same numbers; the oracle enlarges and joins the maps first."""
    head = build_linear(standardize=False)
    maps = build_maps(128, 192)
    joined = torch.cat([F.interpolate(level_map, size=(16, 24), mode="bilinear") for level_map in maps], dim=1)
    weight = torch.cat([classifier.weight for classifier in head.classifiers], dim=1)
    expected = F.interpolate(F.conv2d(joined, weight, head.classifiers[0].bias), scale_factor=8, mode="bilinear")
    torch.testing.assert_close(head(maps), expected, rtol=1e-4, atol=1e-5)
    assert sum(parameter.numel() for parameter in head.parameters()) == 5 * (sum(INFO.channels) + 1)


def test_the_scale_of_a_channel_does_not_matter():
    scales = [torch.logspace(-2, 2, width)[:, None, None] for width in INFO.channels]
    maps = build_maps(256, 256)
    scaled = [level_map * scale + 3 * scale for level_map, scale in zip(maps, scales, strict=True)]
    torch.testing.assert_close(build_linear()(maps), build_linear()(scaled), rtol=1e-3, atol=1e-3)


def test_in_evaluation_it_is_linear_in_the_features():
    head = build_linear()
    head(build_maps(128, 128))
    head.eval()
    first, second = build_maps(128, 128, seed=1), build_maps(128, 128, seed=2)
    mean = head([(left + right) / 2 for left, right in zip(first, second, strict=True)])
    torch.testing.assert_close(mean, (head(first) + head(second)) / 2, rtol=1e-4, atol=1e-4)


def test_statistics_are_those_of_all_batches_that_were_seen():
    head = build_linear()
    batches = [[level_map * (seed + 1) + seed for level_map in build_maps(128, 128, seed=seed)] for seed in range(3)]
    for maps in batches:
        head(maps)
    for level, scale in enumerate(head.scales):
        means = torch.stack([maps[level].mean(dim=(0, 2, 3)) for maps in batches]).mean(dim=0)
        variances = torch.stack([maps[level].var(dim=(0, 2, 3)) for maps in batches]).mean(dim=0)
        torch.testing.assert_close(scale.running_mean, means, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(scale.running_var, variances, rtol=1e-4, atol=1e-5)
