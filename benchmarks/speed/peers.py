"""Avalanche 0.6 doing the same: on tensors, and on the data path that its own benchmarks take."""

import gzip
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from floor import MAS_STRENGTH
from torch import nn
from torch.utils.data import TensorDataset

from frostline.core.torchvision_schemas import torchvision
from frostline.core.types import TaskStream
from frostline.strategies import AGEM, EWC, SI, DERpp, LwF, Replay
from frostline.streams.datasets import DEBIAN_FASHION_MNIST

warnings.filterwarnings("ignore", category=DeprecationWarning, module="avalanche")


def avalanche_benchmarks(stream: TaskStream) -> dict[str, Any]:
    """Return the stream as two Avalanche benchmarks: 'tensors' in memory, and 'standard': its own SplitFMNIST as it comes.

    SplitFMNIST takes torchvision's images through ToTensor and Normalize; the same pixels as the stream's, standardised.
    """
    torchvision()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from avalanche.benchmarks import SplitFMNIST, nc_benchmark
    whole = [next(iter(task.train.batches(len(task.train)))) for task in stream.tasks]
    tensors = TensorDataset(torch.cat([b.x for b in whole]), torch.cat([b.y for b in whole]))
    tensors.targets = tensors.tensors[1].tolist()  # type: ignore[attr-defined]
    common: Any = {"n_experiences": len(stream), "shuffle": False, "fixed_class_order": range(stream.classes)}
    with tempfile.TemporaryDirectory(prefix="fashion-mnist-") as root:  # the same files, where torchvision wants them
        raw = Path(root, "FashionMNIST", "raw")
        raw.mkdir(parents=True)
        for file in DEBIAN_FASHION_MNIST.glob("*.gz"):
            (raw / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
        found = {
            "tensors": nc_benchmark(tensors, tensors, task_labels=False, **common),  # type: ignore[arg-type]
            "standard": SplitFMNIST(dataset_root=root, **common),  # reads the images into memory here
        }
    _assert_same_images(stream, found)
    return found


def _assert_same_images(stream: TaskStream, benchmarks: dict[str, Any]) -> None:
    """Look some images of the last task up among ours; Avalanche keeps them in another order."""
    ours = next(iter(stream[-1].train.batches(len(stream[-1].train))))
    for label, benchmark in benchmarks.items():
        theirs = benchmark.train_stream[len(stream) - 1].dataset
        assert len(theirs) == len(ours), f"{label}: {len(theirs)} images, not {len(ours)}"
        for i in range(8):
            distances = (ours.x - theirs[i][0]).abs().amax(dim=(1, 2, 3))
            same = int(distances.argmin())
            assert distances[same] < 1e-3, f"{label}: not the stream's images"
            assert int(theirs[i][1]) == int(ours.y[same]), f"{label}: not the stream's labels"


def avalanche_train(method: str, benchmark: Any, net: nn.Module, lr: float, batch_size: int) -> tuple[float, int]:
    """Train with Avalanche's own strategy, no metrics and no logging; return the seconds of its epochs and its steps."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from avalanche import training as theirs
        from avalanche.core import SupervisedPlugin
        from avalanche.training.plugins import EvaluationPlugin

    class Clock(SupervisedPlugin):
        seconds, steps, begin = 0.0, 0, 0.0

        def before_training_epoch(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
            self.begin = time.perf_counter()

        def after_training_epoch(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
            self.seconds += time.perf_counter() - self.begin

        def after_training_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
            self.steps += 1

    clock = Clock()
    memory = {"mem_size": Replay().capacity}
    kind, extra = {
        "finetune": (theirs.Naive, {}),
        "replay": (theirs.Replay, memory),
        "ewc": (theirs.EWC, {"ewc_lambda": EWC().strength, "mode": "separate"}),
        "si": (theirs.SynapticIntelligence, {"si_lambda": SI().strength}),
        "mas": (theirs.MAS, {"lambda_reg": MAS_STRENGTH}),
        "lwf": (theirs.LwF, {"alpha": LwF().strength, "temperature": LwF().temperature}),
        "der_pp": (
            theirs.DER,
            {**memory, "batch_size_mem": 2 * batch_size, "alpha": DERpp().alpha, "beta": DERpp().beta},
        ),
        "er_ace": (theirs.ER_ACE, {**memory, "batch_size_mem": batch_size}),
        "agem": (theirs.AGEM, {"patterns_per_exp": AGEM().capacity // 5, "sample_size": batch_size}),
    }[method]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that nothing will be logged is what we want
        quiet = EvaluationPlugin()
    strategy = kind(
        model=net, optimizer=torch.optim.SGD(net.parameters(), lr=lr), criterion=nn.CrossEntropyLoss(),
        train_mb_size=batch_size, train_epochs=1, evaluator=quiet, plugins=[clock], **extra,
    )  # fmt: skip
    for experience in benchmark.train_stream:
        with warnings.catch_warnings(record=True):  # of its own, at every task; it switches filters off
            strategy.train(experience)
    return clock.seconds, clock.steps
