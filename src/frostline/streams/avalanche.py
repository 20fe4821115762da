"""Any benchmark of Avalanche's as a stream: its samples read once, so that the loop stays ours."""

import inspect
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from frostline.core.checks import UsageError, nearest, one_of
from frostline.core.torchvision_schemas import torchvision
from frostline.core.types import TaskStream
from frostline.streams.assembling import SCENARIOS
from frostline.streams.own import from_tasks


class Experience:
    """An experience of Avalanche's as a data set of (x, y), its transformations those of evaluation.

    rename: the label here of each label there; which: the samples that count, all where None.
    """

    def __init__(self, experience: Any, rename: Mapping[int, int] | None = None, which: Tensor | None = None):
        where = f"Experience {experience.current_experience} of {experience.origin_stream.name}"
        self.data = experience.dataset.eval()
        try:
            targets = [int(y) for y in experience.dataset.targets]
        except (AttributeError, TypeError, ValueError) as error:
            raise UsageError(
                f"{where} has no labels: expected `targets`, a class for each sample ({error})."
            ) from error
        if not targets:
            raise UsageError(f"{where} has no samples.")
        self.rename, own = rename, torch.tensor(targets)
        rows = torch.arange(len(own)) if which is None else torch.isin(own, which).nonzero().squeeze(1)
        self.rows, self.targets = rows.tolist(), own[rows]
        if rename is not None:
            self.targets = torch.tensor([rename[y] for y in self.targets.tolist()], dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        x = self.data[self.rows[index]][0]
        return x if isinstance(x, Tensor) else torch.as_tensor(np.array(x)), int(self.targets[index])


def from_avalanche(
    benchmark: Any,
    tasks: int = 5,
    settings: Mapping[str, Any] | None = None,
    scenario: str | None = None,
    online: bool = False,
    data_root: str | None = None,
    workers: int = 0,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> TaskStream:
    """Return the stream of a benchmark: an object of Avalanche's, or the name of one of its classic ones, such as SplitMNIST.

    tasks, data_root, seed: n_experiences, dataset_root and seed of a benchmark that is named, where it takes them. settings:
    what else it takes. Samples are seen as Avalanche evaluates them; where it draws variants to learn from, trainer.augment
    does that here. scenario: None tells by task labels ('task', each with classes of its own), by classes that come once
    ('class') or always ('domain'); where some come again, 'class'. A test stream of one experience is divided by the classes
    of the tasks.
    """
    if scenario is not None:
        one_of("stream.scenario", scenario, SCENARIOS)
    torchvision()  # avalanche imports it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        name = benchmark if isinstance(benchmark, str) else type(benchmark).__name__
        if isinstance(benchmark, str):
            benchmark = _named(benchmark, tasks, dict(settings or {}), data_root, seed)
        elif settings:
            raise UsageError(f"stream.settings are for a benchmark by name, and this is one: {name}.")
        try:
            train, test = list(benchmark.train_stream), list(benchmark.test_stream)
        except (AttributeError, TypeError) as error:
            raise UsageError(
                f"stream.benchmark={name} has no train_stream and test_stream: expected a benchmark of Avalanche's ({error})."
            ) from error
        if len(test) not in (1, len(train)):
            raise UsageError(
                f"{name} has {len(train)} experiences to learn and {len(test)} to test on. Expected as many, or one."
            )
        learned = [Experience(experience).targets.unique() for experience in train]
        scenario = scenario or _scenario(train, learned)
        width = 1 + max(int(own.max()) for own in learned)
        heads = scenario == "task" and len(torch.cat(learned).unique()) < sum(map(len, learned))
        pairs = []
        for t, (experience, own) in enumerate(zip(train, learned, strict=True)):
            rename = {c: t * width + c for c in range(width)} if heads else None
            held = Experience(test[t], rename) if len(test) == len(train) else Experience(test[0], rename, own)
            pairs.append((Experience(experience, rename), held))
        shown = [f"{t}: {','.join(map(str, own.tolist()[:4]))}" for t, own in enumerate(learned)]
        stream = from_tasks(pairs, scenario=scenario, names=shown, name=name, device=device, workers=workers)
    return TaskStream(stream.name, stream.scenario, stream.tasks, stream.classes, stream.shape, online)


def _scenario(train: Sequence[Any], learned: Sequence[Tensor]) -> str:
    labels = [tuple(experience.task_labels) for experience in train if hasattr(experience, "task_labels")]
    if len(train) > 1 and len(set(labels)) == len(train):
        return "task"
    same = all(torch.equal(own, learned[0]) for own in learned)
    return "domain" if same and len(learned) > 1 else "class"


def _named(name: str, tasks: int, settings: dict[str, Any], data_root: str | None, seed: int) -> Any:
    """Make one of Avalanche's classic benchmarks."""
    from avalanche.benchmarks import classic

    known = [n for n, make in vars(classic).items() if n[0].isupper() and inspect.isfunction(make)]
    if name not in known:
        raise UsageError(
            f"stream.benchmark={name!r} is none of Avalanche's.{nearest(name, known)} Known: {', '.join(known)}."
        )
    make = getattr(classic, name)
    takes = inspect.signature(make).parameters
    odd = [key for key in settings if key not in takes]
    if odd:
        raise UsageError(
            f"stream.settings.{odd[0]}: {name} does not take it.{nearest(odd[0], takes)} It takes {', '.join(takes)}."
        )
    own = {"n_experiences": tasks, "dataset_root": data_root and str(Path(data_root).expanduser()), "seed": seed}
    given = {key: value for key, value in own.items() if key in takes} | settings
    try:
        return make(**given)
    except UsageError:
        raise
    except Exception as error:  # it asserts, downloads and reads
        reason = (str(error).splitlines() or [""])[0]
        raise UsageError(f"stream.benchmark={name} could not be made: {type(error).__name__}: {reason}") from error
