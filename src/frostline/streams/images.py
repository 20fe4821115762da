"""Images in folders, or in a data set of Hugging Face's, each with its class: which there are, and reading one."""

import hashlib
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch

from frostline.core.checks import UsageError
from frostline.core.rng import generator
from frostline.streams.frames import hugging_face, is_hugging_face
from frostline.streams.times import natural

HEAD = 4096  # bytes of an image that its digest reads
CHECKED = 20_000  # images up to which each is opened before training
SCALINGS = {  # mean and deviation of each channel
    "imagenet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "half": ([0.5] * 3, [0.5] * 3),
    "unit": ([0.0] * 3, [1.0] * 3),
}


def open_images(
    root: Path, image_size: int, scaling: str, task_folders: bool, test_share: float | None
) -> dict[bool, Any]:
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
        if task_folders or test_share is not None:
            raise UsageError(
                "stream.task_folders and stream.test_share are for folders, not for Hugging Face's data sets."
            )
        return _hugging_face(str(root), see)
    inside = "TASK/CLASS/" if task_folders else "CLASS/"
    try:
        if test_share is not None:
            if {p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")} == {"train", "test"}:
                raise UsageError(
                    f"stream.test_share={test_share}: {root} has train/ and test/ of its own. Expected it left out."
                )
            return _Images(root, see, task_folders).parts(test_share)
        sets = {train: _Images(root / ("train" if train else "test"), see, task_folders) for train in (True, False)}
    except OSError as error:
        if test_share is not None:
            raise UsageError(f"stream.data_root={str(root)!r}: expected images under {inside} ({error}).") from error
        raise UsageError(
            f"stream.data_root={str(root)!r}: expected images under train/{inside} and test/{inside}; or, where they are under "
            f"{inside} at once, stream.test_share=0.2 ({error})."
        ) from error
    if sets[True].classes != sets[False].classes:
        raise UsageError(f"The classes under {root}/train and {root}/test differ: expected the same folder names.")
    return sets


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
    """The images under folder/CLASS/, or folder/TASK/CLASS/, hidden files and folders left out."""

    def __init__(self, folder: Path, see: Any, task_folders: bool = False):
        from torchvision.datasets.folder import IMG_EXTENSIONS

        def shown(path: Path) -> bool:
            return not any(part.startswith(".") for part in path.relative_to(folder).parts)

        self.see = see
        folders = [p for p in folder.iterdir() if p.is_dir() and shown(p)]
        if task_folders:
            folders = [p for task in folders for p in task.iterdir() if p.is_dir() and shown(p)]
        names = (p.relative_to(folder) for p in folders)
        self.classes = [
            name.as_posix() for name in sorted(names, key=lambda name: [natural(part) for part in name.parts])
        ]
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
            raise UsageError(
                f"{folder} holds no folders of images. Expected "
                + ("TASK/CLASS/*, as stream.task_folders=true has it." if task_folders else "one for each class.")
            )
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

    def parts(self, share: float) -> dict[bool, "_Images"]:
        """Return the images to learn from, and a share of each class to test on, under True and False."""
        test = torch.zeros(len(self), dtype=torch.bool)
        targets = torch.tensor(self.targets)
        for label, name in enumerate(self.classes):
            rows = (targets == label).nonzero().squeeze(1)
            if len(rows) < 2:
                raise UsageError(f"The class {name} has one image: expected at least 2, to learn from and to test on.")
            lot = torch.randperm(len(rows), generator=generator("folder", name))
            test[rows[lot[: max(1, round(share * len(rows)))]]] = True
        return {True: self._some(~test), False: self._some(test)}

    def _some(self, which: torch.Tensor) -> "_Images":
        part = copy(self)
        rows = which.nonzero().squeeze(1).tolist()
        part.paths, part.targets = [self.paths[i] for i in rows], [self.targets[i] for i in rows]
        return part

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
