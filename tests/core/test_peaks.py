"""The peaks of devices, and the share of them that was reached."""

import pytest

from frostline.core.peaks import peak, utilisation
from tests.conftest import in_process


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4), ("NVIDIA H100 NVL", 835.5), ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA A100 80GB PCIe", 312), ("NVIDIA L40S", 362), ("NVIDIA L4", 121), ("NVIDIA H200", 989.4),
        ("NVIDIA A10G", None), ("Tesla V100-SXM2-16GB", None), ("NVIDIA L40", None), ("cpu", None),
    ],
)  # fmt: skip
def test_a_device_is_known_by_a_word_of_its_name(name, tera):
    assert peak(name, "bfloat16") == (None if tera is None else pytest.approx(tera * 1e12))


def test_the_share_is_operations_over_what_could_have_been():
    assert utilisation(312e12, 2.0, "NVIDIA A100", "bfloat16") == pytest.approx(0.5)
    assert utilisation(312e12, 2.0, "NVIDIA A100", "float32") == pytest.approx(8.0)  # says that tensor cores were on
    assert utilisation(1e12, 1.0, "something", "float32") is None
    assert utilisation(1e12, 0.0, "NVIDIA A100", "float32") is None


def test_a_dry_run_estimates_another_device(tmp_path, capsys, monkeypatch):
    import contextlib
    import io

    from frostline.app import launch

    def said(*arguments):
        text = io.StringIO()
        with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
            launch.main(["--dry-run", "stream.samples_per_class=20", "model=mlp", "trainer.epochs=1", *arguments])
        return " ".join(text.getvalue().split())

    text = said("cost=aws_h100", "trainer.precision=bfloat16")
    assert "An estimate for H100, if it reaches 40% of its 989 TFLOP/s in bfloat16" in text
    assert "USD, and" not in text  # this machine's seconds at that device's price
    assert "An estimate for" not in said()


def test_an_unknown_device_is_refused():
    code, error = in_process("cost.device=H10")
    assert code == 1
    assert "cost.device='H10': not known. Expected one of B200" in error
