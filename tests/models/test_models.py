import pytest
import torch

from frostline.core.types import masked
from frostline.models import cnn, linear, mlp, resnet18, resnet50, slim_resnet18


@pytest.mark.parametrize("size", [8, 28, 32, 33])
@pytest.mark.parametrize("channels", [1, 3])
def test_slim_resnet_fits_every_size(size, channels):
    net = slim_resnet18((channels, size, size), 7)
    assert net(torch.randn(2, channels, size, size)).shape == (2, 7)


def test_slim_resnet18_is_that_of_the_papers():
    """GEM's code: 20 filters on 3x32x32 with 100 classes has 1,109,240 parameters."""
    assert sum(p.numel() for p in slim_resnet18((3, 32, 32), 100).parameters()) == 1_109_240


def test_resnet18_equals_torchvision():
    """With ImageNet's stem and the same weights, the logits are torchvision's."""
    from frostline.core.torchvision_schemas import torchvision

    theirs = torchvision().models.resnet18(weights=None).eval()
    ours = resnet18((3, 64, 64), 1000, stem="imagenet").eval()
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(ours(x), theirs(x))


def test_resnet50_has_blocks():
    assert len(resnet50((3, 32, 32), 4).blocks()) == 1 + 16


def test_invisible_classes_get_no_gradient():
    head = torch.nn.Linear(4, 5)
    visible = torch.tensor([[True, True, False, False, True], [True, False, True, False, False]])
    torch.nn.functional.cross_entropy(masked(head(torch.randn(2, 4)), visible), torch.tensor([0, 2])).backward()
    assert torch.isfinite(head.weight.grad).all()
    assert head.weight.grad[3].abs().sum() == 0
    assert head.weight.grad[4].abs().sum() > 0


@pytest.mark.parametrize(
    ("activation", "gain"), [("relu", 2**0.5), ("tanh", 5 / 3), ("silu", 2**0.5), ("sigmoid", 1.0)]
)
def test_weights_as_he_et_al_draw_them(activation, gain):
    net = mlp((100,), 50, hidden=[2000], activation=activation, init="kaiming")
    for weight, inputs, factor in ((net.backbone.layer1[0].weight, 100, gain), (net.head.weight, 2000, 1.0)):  # type: ignore[union-attr,index]
        bound = factor * (3 / inputs) ** 0.5
        assert 0.99 * bound < weight.abs().max().item() <= bound
        assert weight.std().item() == pytest.approx(factor / inputs**0.5, rel=0.02)
    assert not net.head.bias.any()


def test_weights_as_glorot_and_bengio_draw_them():
    net = mlp((100,), 50, hidden=[2000], init="xavier")
    for weight, ends in ((net.backbone.layer1[0].weight, 2100), (net.head.weight, 2050)):  # type: ignore[union-attr,index]
        bound = (6 / ends) ** 0.5
        assert 0.99 * bound < weight.abs().max().item() <= bound
        assert weight.std().item() == pytest.approx((2 / ends) ** 0.5, rel=0.02)
    assert not net.head.bias.any()


def test_linear_and_mlp():
    assert [n for n, _ in linear((1, 4, 4), 3).named_parameters()] == ["head.weight", "head.bias"]
    net = mlp((1, 28, 28), 10)
    assert sum(p.numel() for p in net.parameters()) == 784 * 400 + 400 + 400 * 400 + 400 + 4000 + 10


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: cnn((4,), 2), "needs images"),
        (lambda: cnn((1, 4, 4), 2, channels=[2, 2, 2]), "halved fewer times"),
        (lambda: mlp((4,), 2, hidden=[0]), "nearest valid value is 1"),
        (lambda: mlp((4,), 2, dropout=1.5), "nearest valid value is 1"),
        (lambda: mlp((4,), 2, activation="rely"), "relu"),
        (lambda: mlp((4,), 2, init="kaimin"), "kaiming"),
        (lambda: slim_resnet18((1, 8, 8), 2, filters=0), "nearest valid value is 1"),
        (lambda: resnet18((3, 8, 8), 2, stem="big"), "expected imagenet"),
    ],
)
def test_bad_settings(build, message):
    with pytest.raises(ValueError, match=message):
        build()
