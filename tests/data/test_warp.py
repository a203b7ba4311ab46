"""Warp: exact where the answer is known, a pure function of what was drawn, and refusals that name the mistake."""

import pytest
import torch

from upstairs.data.images.warp import AFFINE, Warp
from upstairs.errors import UpstairsError

STILL = {"rotation": 0.0, "shear": 0.0, "scale": (1.0, 1.0), "shift": 0.0, "elastic": 0.0}


def pictures(count: int = 3, side: int = 28) -> torch.Tensor:
    """Noise with an empty margin, so that a small move loses nothing."""
    x = torch.zeros(count, 1, side, side)
    inner = slice(side // 4, side - side // 4)
    x[:, :, inner, inner] = torch.rand(x[:, :, inner, inner].shape, generator=torch.Generator().manual_seed(0))
    return x


def numbers(count: int = 3, **chosen: float) -> torch.Tensor:
    """Drawn numbers that are 0 but for the chosen ones."""
    places = {"turn": 0, "shear": 1, "size": 2, "right": 3, "down": 4}
    drawn = torch.zeros(count, AFFINE + 2 * 4**2)
    for name, value in chosen.items():
        drawn[:, places[name]] = value
    return drawn


def test_no_strength_is_the_identity():
    drawn = Warp().draw(3, torch.Generator().manual_seed(1))
    torch.testing.assert_close(Warp(**STILL).apply(pictures(), drawn), pictures(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("side", [28, 84])
def test_shift_moves_right_and_down_by_a_share_of_the_side(side):
    moved = Warp(**STILL | {"shift": 2 / 28}).apply(pictures(side=side), numbers(right=1, down=-0.5))
    pixels = side // 28
    expected = pictures(side=side).roll((-pixels, 2 * pixels), (2, 3))
    torch.testing.assert_close(moved, expected, atol=1e-4, rtol=0)


def test_a_quarter_turn():
    turned = Warp(**STILL | {"rotation": 90.0}).apply(pictures(), numbers(turn=1))
    torch.testing.assert_close(turned, torch.rot90(pictures(), -1, (2, 3)), atol=1e-4, rtol=0)


def test_a_turned_picture_shifts_along_the_axes_of_the_result():
    warp = Warp(**STILL | {"rotation": 90.0, "shift": 2 / 28})
    expected = torch.rot90(pictures(), -1, (2, 3)).roll(2, 3)
    torch.testing.assert_close(warp.apply(pictures(), numbers(turn=1, right=1)), expected, atol=1e-4, rtol=0)


def test_a_picture_is_sheared_first_and_turned_second():
    warp = Warp(**STILL | {"rotation": 90.0, "shear": 0.5})
    both = warp.apply(pictures(), numbers(turn=1, shear=1))
    sheared = warp.apply(pictures(), numbers(shear=1))
    torch.testing.assert_close(both, torch.rot90(sheared, -1, (2, 3)), atol=1e-4, rtol=0)


def test_what_comes_in_from_outside_is_background():
    moved = Warp(**STILL | {"shift": 0.5}).apply(torch.ones(1, 1, 28, 28), numbers(1, right=1))
    assert moved[..., :14].max() < 1e-4
    assert moved[..., 14:].min() > 1 - 1e-4


def test_scale_and_shear():
    square = torch.zeros(1, 1, 28, 28)
    square[:, :, 8:20, 8:20] = 1
    warp = Warp(**STILL | {"scale": (0.5, 1.5), "shear": 0.5})
    for size, share in ((-1, 0.25), (0, 1.0), (1, 2.25)):
        area = warp.apply(square, numbers(1, size=size)).sum() / square.sum()
        assert area == pytest.approx(share, rel=0.02)
    sheared = warp.apply(square, numbers(1, shear=1))
    columns = torch.arange(28.0)
    middle = [(sheared[0, 0, row] * columns).sum() / sheared[0, 0, row].sum() for row in (9, 18)]
    assert float(middle[1] - middle[0]) == pytest.approx(0.5 * 9, abs=0.05)


def test_control_points_that_move_together_shift():
    drawn = numbers()
    drawn[:, AFFINE::2] = 1  # the x of every control point
    bent = Warp(**STILL | {"elastic": 2 / 28}).apply(pictures(), drawn)
    torch.testing.assert_close(bent, pictures().roll(-2, 3), atol=1e-4, rtol=0)


def test_elastic_bends_near_its_control_point_only():
    drawn = numbers()
    drawn[:, AFFINE : AFFINE + 2] = 1  # the first control point: the upper left corner
    x = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(2))
    change = (Warp(**STILL | {"elastic": 2 / 28}).apply(x, drawn) - x).abs()
    assert change[..., :7, :7].mean() > 0.05
    assert change[..., 21:, 21:].max() < 1e-4


def test_the_generator_decides():

    def draw(seed: int) -> torch.Tensor:
        return Warp().draw(5, torch.Generator().manual_seed(seed))

    assert torch.equal(draw(3), draw(3))
    assert not torch.equal(draw(3), draw(4))
    assert draw(3).shape == (5, AFFINE + 2 * 4**2)
    many = Warp(grid=3).draw(2000, torch.Generator().manual_seed(0))
    assert many.shape == (2000, AFFINE + 2 * 3**2)
    assert -1 <= many.min() < -0.99
    assert 0.99 < many.max() <= 1


def test_a_picture_is_warped_the_same_alone_and_in_any_batch():
    x, drawn = pictures(40), Warp().draw(40, torch.Generator().manual_seed(0))
    whole = Warp().apply(x, drawn)
    for part in (slice(7, 8), slice(3, 20)):
        assert torch.equal(Warp().apply(x[part], drawn[part]), whole[part])


def test_values_channels_and_kind_are_kept():
    x = torch.rand(6, 3, 20, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    warped = Warp().apply(x, Warp().draw(6, torch.Generator().manual_seed(0)))
    assert (warped.shape, warped.dtype) == (x.shape, x.dtype)
    assert warped.min() >= 0
    assert warped.max() <= 1
    assert not Warp().apply(torch.zeros_like(x), Warp().draw(6, torch.Generator().manual_seed(0))).any()


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        ({"rotation": -1.0}, "rotation is -1.0"),
        ({"elastic": float("nan")}, "elastic is nan"),
        ({"scale": (1.2, 0.8)}, "scale is (1.2, 0.8)"),
        ({"scale": (0.0, 1.0)}, "scale is (0.0, 1.0)"),
        ({"grid": 1}, "grid is 1"),
    ],
)
def test_mistakes_are_refused(mistake, said):
    with pytest.raises(UpstairsError) as caught:
        Warp(**mistake)
    assert said in str(caught.value)


@pytest.mark.parametrize("shape", [(3, 28, 28), (3, 1, 28, 20)])
def test_inputs_that_are_no_square_pictures_are_refused(shape):
    with pytest.raises(UpstairsError, match="square pictures"):
        Warp().apply(torch.zeros(shape), numbers())
