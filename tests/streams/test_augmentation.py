import pytest
import torch

from frostline.streams.augmentation import Augmentation


def test_flip_mirrors_some_and_only_mirrors():
    x = torch.randn(64, 2, 5, 5)
    y = Augmentation(["flip"])(x)
    mirrored = (y == x.flip(3)).flatten(1).all(1)
    same = (y == x).flatten(1).all(1)
    assert (mirrored | same).all()
    assert 15 < int(mirrored.sum()) < 49


def test_crop_shifts_each_sample_by_itself_and_black_comes_in():
    x = torch.rand(200, 1, 12, 12) + 1.0
    x[:, :, 0, 0] = 0.5  # the darkest pixel there is
    y = Augmentation(["crop"])(x)
    shifts = set()
    for before, after in zip(x, y, strict=True):
        fits = [
            (i, j)
            for i in range(-4, 5)
            for j in range(-4, 5)
            if torch.allclose(
                after[:, max(0, -i) : 12 - max(0, i), max(0, -j) : 12 - max(0, j)],
                before[:, max(0, i) : 12 + min(0, i), max(0, j) : 12 + min(0, j)],
            )
        ]
        assert fits
        shifts.add(fits[0])
    assert len(shifts) > 40
    assert y.min() == pytest.approx(0.5)


def test_nothing_asked_for_is_nothing_done_and_no_images_are_refused():
    x = torch.randn(3, 7)
    assert not Augmentation([])
    assert Augmentation([])(x) is x
    with pytest.raises(ValueError, match="needs images"):
        Augmentation(["flip"])(x)
    with pytest.raises(ValueError, match="expected one of flip, crop"):
        Augmentation(["rotate"])
