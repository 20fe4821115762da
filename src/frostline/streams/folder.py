"""Images in folders, decoded as they are needed: for data that do not fit in memory."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from frostline.core.checks import UsageError, in_range, one_of
from frostline.core.loaders import LoaderSource
from frostline.core.rng import generator
from frostline.core.sources import TensorSource
from frostline.core.types import TaskStream
from frostline.costs.memory import needs_room
from frostline.streams.arrival import Arrival
from frostline.streams.assembling import TASK_BY_TASK, MakeSource, assemble
from frostline.streams.images import SCALINGS, open_images


def image_folder(
    data_root: str = "data",
    tasks: int = 5,
    scenario: str = "class",
    classes_per_task: int | None = None,
    class_order: Any = "natural",
    image_size: int = 64,
    workers: int | None = None,
    scaling: str = "imagenet",
    in_memory: bool = False,
    task_folders: bool = False,
    test_share: float | None = None,
    validation: float = 0.0,
    samples_per_class: int | None = None,
    samples_per_task: int | None = None,
    test_samples_per_class: int | None = None,
    online: bool = False,
    arrival: Arrival | str = TASK_BY_TASK,
    seed: int = 0,
    device: str = "cpu",
) -> TaskStream:
    """Return a split stream over data_root/train/CLASS/* and data_root/test/CLASS/*; what is hidden is no class and no image.

    Classes are in the natural order of their names, 2 before 10. Images stand as the camera's mark says, 16-bit ones become
    8-bit ones, and what is transparent is white.
    task_folders: there is one more level, train/TASK/CLASS/*, whose folders are the tasks, however many classes each has.
    test_share: there are no train/ and test/, but CLASS/* (or TASK/CLASS/*) at once; this share of each class is tested on,
    chosen at random but always the same. data_root may also be a data set of Hugging Face's with a column of images and one
    of classes, a folder or a name. workers: processes that read, None for as many as pay on this machine. scaling: of the
    pixels, as the model was trained: 'imagenet' (its mean and deviation), 'half' (to -1..1), 'unit' (0..1). in_memory: read
    every image that the stream uses once, before training, and keep it on the device that learns. arrival: how samples come.
    """
    one_of("stream.scaling", scaling, SCALINGS)
    arrival = Arrival.of(arrival)
    arrival.check(scenario)
    in_range("stream.image_size", image_size, 1)
    in_range("stream.workers", workers, 0, whole=True)
    in_range("stream.test_share", test_share, 0.01, 0.9)
    sets = open_images(Path(data_root).expanduser(), image_size, scaling, task_folders, test_share)
    seconds, size = _seconds_a_sample(sets[True]), 3 * image_size * image_size * 4

    def loader(train: bool, rows: torch.Tensor, y: torch.Tensor, task: int) -> LoaderSource:
        return LoaderSource(
            sets[train], y, rows, task, device=device, workers=workers, sample_bytes=size, seconds=seconds
        )

    y_train, y_test = (torch.tensor(sets[train].targets) for train in (True, False))
    if task_folders:
        class_order = _by_folder(sets[True].classes, class_order, seed)
        if tasks not in (5, len(class_order)) or classes_per_task is not None:  # 5 is what nobody set
            raise UsageError(
                f"stream.task_folders=true: the {len(class_order)} folders are the tasks. Leave out stream.tasks and "
                "stream.classes_per_task."
            )
    groups = arrival.groups(len(sets[True].classes), tasks, classes_per_task, class_order, seed)

    def stream(source: MakeSource) -> TaskStream:
        return assemble(
            "image_folder", groups, scenario, y_train, y_test, source, (3, image_size, image_size), device,
            validation=validation, samples_per_class=samples_per_class, samples_per_task=samples_per_task,
            test_samples_per_class=test_samples_per_class, online=online, seed=seed, names=sets[True].classes,
            arrival=arrival,
        )  # fmt: skip

    return _kept(stream, loader, size, torch.device(device)) if in_memory else stream(loader)


def _kept(
    stream: Callable[[MakeSource], TaskStream],
    loader: Callable[[bool, torch.Tensor, torch.Tensor, int], LoaderSource],
    size: int,
    device: torch.device,
) -> TaskStream:
    """Return the stream with its samples, of `size` bytes each, read and in memory: those that it uses, each once."""
    used: dict[bool, list[torch.Tensor]] = {True: [], False: []}

    def note(train: bool, rows: torch.Tensor, y: torch.Tensor, task: int) -> LoaderSource:
        used[train].append(rows)
        return loader(train, rows, y, task)

    stream(note)
    rows = {train: torch.cat(parts).unique() for train, parts in used.items()}
    twice = 2 * size * sum(map(len, rows.values()))  # while they are put together
    needs_room("stream.in_memory=true", twice, device, "false, or a smaller stream.image_size")
    whole = {train: loader(train, own, own, 0) for train, own in rows.items()}
    pixels = {train: torch.cat([batch.x for batch in own.batches(256)]) for train, own in whole.items()}
    holds = {train: own.holds() for train, own in whole.items()}
    return stream(
        lambda train, own, y, task: _Held(pixels[train], y, torch.searchsorted(rows[train], own), task, holds[train])
    )


class _Held(TensorSource):
    """Images of a folder that are kept in memory, no more of them than the stream uses."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor, rows: torch.Tensor, task: int, holds: dict[int, int]):
        super().__init__(x, y, rows, task)
        self._holds = holds

    def holds(self) -> dict[int, int]:
        """Return the digest of the whole folder."""
        return self._holds


def _by_folder(classes: Sequence[str], order: Any, seed: int) -> list[list[int]]:
    """Return the classes of each folder of tasks, a task each: in the folders' natural order, or at random by the seed."""
    one_of("stream.class_order", order, ("natural", "random"))
    owner = [name.partition("/")[0] for name in classes]
    folders = list(dict.fromkeys(owner))
    if order == "random":
        folders = [folders[i] for i in torch.randperm(len(folders), generator=generator(seed, "class order")).tolist()]
    return [[c for c, own in enumerate(owner) if own == folder] for folder in folders]


def _seconds_a_sample(images: Any) -> float:
    """Return what reading one of these images takes, from some of them."""
    begin, some = time.perf_counter(), range(0, len(images), -(-len(images) // 8))
    for index in some:
        images[index]
    return (time.perf_counter() - begin) / len(some)
