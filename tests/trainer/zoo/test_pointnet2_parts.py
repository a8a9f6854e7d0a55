"""PointNet2Parts: its size, and the way of values from centres to points."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nested_sparse.trainer.zoo import PointNet2Parts
from nested_sparse.trainer.zoo.pointnet2_parts import interpolated


def test_a_point_gets_the_weighted_mean_of_three_centres() -> None:
    """Against loops; a point at a centre has that centre's values; of equally near centres the first ones count."""
    generator = torch.Generator().manual_seed(0)
    places, centres = torch.randn(2, 3, 9, generator=generator), torch.randn(2, 3, 5, generator=generator)
    places[0, :, 4] = centres[0, :, 2]
    values = torch.randn(2, 4, 5, generator=generator)
    found = interpolated(places, centres, values).numpy()
    for cloud in range(2):
        for point in range(9):
            far = ((places[cloud, :, point, None] - centres[cloud]) ** 2).sum(0).numpy().astype(float)
            near = np.argsort(far)[:3]
            weights = 1 / (far[near] + 1e-6)
            expected = (values[cloud, :, near].numpy() * weights).sum(1) / weights.sum()
            np.testing.assert_allclose(found[cloud, :, point], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[0, :, 4], values[0, :, 2].numpy(), atol=1e-3)
    square = torch.tensor([[1.0, 0, -1, 0], [0, 1, 0, -1], [0, 0, 0, 0]])[None]
    middle = interpolated(torch.zeros(1, 3, 1), square, torch.tensor([[[1.0, 2, 6, 100]]]))
    assert float(middle) == pytest.approx(3.0, rel=1e-4)


def test_it_has_the_size_it_says_and_answers_for_each_point() -> None:
    """0.17 million weights and 59 MFLOP; logits of each class at each point, whatever the number of points."""
    net = PointNet2Parts().eval()
    assert sum(each.numel() for each in net.parameters()) == pytest.approx(0.17e6, rel=0.02)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.randn(1, 3, 512))
    assert counter.get_total_flops() == pytest.approx(59e6, rel=0.01)
    small = PointNet2Parts(width=4, channels=4, classes=5, centres=12, neighbours=3).eval()
    for points in (12, 30):
        assert small(torch.randn(2, 4, points)).shape == (2, 5, points)


def test_a_cloud_does_not_depend_on_those_beside_it() -> None:
    net = PointNet2Parts(width=4, classes=5, centres=12, neighbours=3).eval()
    clouds = torch.randn(3, 3, 20, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(net(clouds)[1:2], net(clouds[1:2]), rtol=1e-4, atol=1e-5)


def test_too_few_centres_or_points_are_refused() -> None:
    """Each point has three centres of the second layer."""
    with pytest.raises(ValueError, match="centres: expected at least 12, got 8"):
        PointNet2Parts(centres=8)
    with pytest.raises(ValueError, match="a cloud of 10 points has no 12 centres"):
        PointNet2Parts(width=4, centres=12, neighbours=3)(torch.randn(1, 3, 10))
