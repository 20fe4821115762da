"""Images in folders, decoded as they are needed: for data that do not fit in memory."""

import hashlib
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from frostline.core.checks import UsageError, in_range, one_of
from frostline.core.loaders import LoaderSource
from frostline.core.sources import TensorSource
from frostline.core.types import TaskStream
from frostline.costs.memory import needs_room
from frostline.streams.arrival import Arrival
from frostline.streams.build import TASK_BY_TASK, assemble
from frostline.streams.columns import natural
from frostline.streams.frames import hugging_face, is_hugging_face

HEAD = 4096  # bytes of an image that its digest reads
CHECKED = 20_000  # images up to which each is opened before training
SCALINGS = {  # mean and deviation of each channel
    "imagenet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "half": ([0.5] * 3, [0.5] * 3),
    "unit": ([0.0] * 3, [1.0] * 3),
}


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

    data_root may also be a data set of Hugging Face's with a column of images and one of classes, a folder or a name.
    workers: processes that read, None for as many as pay on this machine. scaling: of the pixels, as the model was trained:
    'imagenet' (its mean and deviation), 'half' (to -1..1), 'unit' (0..1). in_memory: read every image once, before training,
    and keep it on the device that learns. arrival: how samples come.
    """
    one_of("stream.scaling", scaling, SCALINGS)
    arrival = Arrival.of(arrival)
    arrival.check(scenario)
    in_range("stream.image_size", image_size, 1)
    in_range("stream.workers", workers, 0, whole=True)
    sets = _open(Path(data_root).expanduser(), image_size, scaling)
    seconds, size = _seconds_a_sample(sets[True]), 3 * image_size * image_size * 4

    def loader(train: bool, rows: torch.Tensor, y: torch.Tensor, task: int) -> LoaderSource:
        return LoaderSource(
            sets[train], y, rows, task, device=device, workers=workers, sample_bytes=size, seconds=seconds
        )

    @cache
    def pixels(train: bool) -> torch.Tensor:
        rows = torch.arange(len(sets[train]))
        return torch.cat([batch.x for batch in loader(train, rows, rows, 0).batches(256)])

    def held(train: bool, rows: torch.Tensor, y: torch.Tensor, task: int) -> TensorSource:
        return TensorSource(pixels(train), y, rows, task)

    if in_memory:
        twice = 2 * size * sum(map(len, sets.values()))  # while they are put together
        needs_room("stream.in_memory=true", twice, torch.device(device), "false, or a smaller stream.image_size")
    source = held if in_memory else loader

    y_train, y_test = (torch.tensor(sets[train].targets) for train in (True, False))
    groups = arrival.groups(len(sets[True].classes), tasks, classes_per_task, class_order, seed)
    return assemble(
        "image_folder", groups, scenario, y_train, y_test, source, (3, image_size, image_size), device,
        validation=validation, samples_per_class=samples_per_class, samples_per_task=samples_per_task,
        test_samples_per_class=test_samples_per_class, online=online, seed=seed, names=sets[True].classes,
        arrival=arrival,
    )  # fmt: skip


def as_rgb(image: Any) -> Any:
    """Return an image of any mode as 8-bit RGB: upright, of 16 bits the upper 8, white where it is transparent."""
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image)
        if values.dtype.kind == "f" or values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError(f"its pixels are {image.mode}, {values.min()} to {values.max()}: expected 8 or 16 bits")
        image = Image.fromarray((values // 257).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


class _Images:
    """The images under folder/CLASS/, hidden files and folders left out."""

    def __init__(self, folder: Path, see: Any):
        from torchvision.datasets.folder import IMG_EXTENSIONS

        def shown(path: Path) -> bool:
            return not any(part.startswith(".") for part in path.relative_to(folder).parts)

        self.see = see
        self.classes = sorted((p.name for p in folder.iterdir() if p.is_dir() and shown(p)), key=natural)
        self.paths: list[Path] = []
        self.targets: list[int] = []
        for label, name in enumerate(self.classes):
            paths = [
                p for p in (folder / name).rglob("*") if p.suffix.lower() in IMG_EXTENSIONS and shown(p) and p.is_file()
            ]
            if not paths:
                raise UsageError(f"{folder / name} holds no images. Expected some of {', '.join(IMG_EXTENSIONS)}.")
            self.paths += sorted(paths)
            self.targets += [label] * len(paths)
        if not self.classes:
            raise UsageError(f"{folder} holds no folders of images. Expected one for each class.")
        self._check_headers()

    def _check_headers(self) -> None:
        """Refuse files that are no images before any training, where opening all of them takes no more than some seconds."""
        from PIL import Image

        for path in self.paths if len(self.paths) <= CHECKED else ():
            try:
                with Image.open(path):
                    pass
            except Exception as error:
                raise UsageError(
                    f"{path} is no image that can be read ({error}). Take it out of the folder."
                ) from error

    def digest(self, rows: Sequence[int]) -> str:
        """Return a digest of these images' names, sizes and first bytes: reading all of them would take minutes."""
        total = hashlib.blake2b(digest_size=16)
        for path in (self.paths[row] for row in rows):
            with path.open("rb") as f:
                start = f.read(HEAD)
            total.update(f"{path.parent.name}/{path.name} {path.stat().st_size} ".encode() + start)
        return total.hexdigest()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        from PIL import Image

        path = self.paths[index]
        try:
            with Image.open(path) as image:
                return self.see(as_rgb(image)), self.targets[index]
        except Exception as error:  # damaged files fail in many ways, and files vanish
            raise UsageError(f"{path} could not be read as an image: {error}.") from error


class _Rows:
    """The images of a data set of Hugging Face's, as torchvision's ImageFolder gives them."""

    def __init__(self, rows: Any, image: str, label: str, see: Any):
        self.rows, self.image, self.see = rows, image, see
        self.classes = rows.features[label].names
        self.targets = list(rows[label])

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.see(as_rgb(self.rows[index][self.image])), self.targets[index]


def _hugging_face(path: str, see: Any) -> dict[bool, Any]:
    train, test = hugging_face(path)
    if test is None:
        raise UsageError(f"stream.data_root={path!r} has no test images: expected a part called test or validation.")
    kinds = {type(feature).__name__: name for name, feature in reversed(train.features.items())}
    if not {"Image", "ClassLabel"} <= set(kinds):
        raise UsageError(
            f"stream.data_root={path!r} has the columns {', '.join(train.features)}: expected one of images and one of classes."
        )
    return {
        is_train: _Rows(rows, kinds["Image"], kinds["ClassLabel"], see)
        for is_train, rows in ((True, train), (False, test))
    }


def _seconds_a_sample(images: Any) -> float:
    """Return what reading one of these images takes, from some of them."""
    begin = time.perf_counter()
    for index in range(0, len(images), -(-len(images) // 8)):
        images[index]
    return (time.perf_counter() - begin) / 8


def _open(root: Path, image_size: int, scaling: str) -> dict[bool, Any]:
    """Return the training images, and the test images, under True and False."""
    from frostline.core.torchvision_schemas import torchvision

    torchvision()
    from torchvision import transforms

    see = transforms.Compose(
        [
            transforms.Resize((image_size, image_size)),
            transforms.ToTensor(),
            transforms.Normalize(*SCALINGS[scaling]),
        ]
    )
    if is_hugging_face(root):
        return _hugging_face(str(root), see)
    try:
        sets = {train: _Images(root / ("train" if train else "test"), see) for train in (True, False)}
    except OSError as error:
        raise UsageError(
            f"stream.data_root={str(root)!r}: expected images under train/CLASS/ and test/CLASS/ ({error})."
        ) from error
    if sets[True].classes != sets[False].classes:
        raise UsageError(f"The classes under {root}/train and {root}/test differ: expected the same folder names.")
    return sets
