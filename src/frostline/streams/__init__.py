"""What is learned from: data sets, where their samples live, and the task streams built over them."""

from frostline.core.loaders import LoaderSource
from frostline.core.sources import TensorSource
from frostline.streams.avalanche import from_avalanche
from frostline.streams.build import from_arrays
from frostline.streams.datasets import DATASETS, DataSet, load
from frostline.streams.folder import image_folder
from frostline.streams.own import from_tasks
from frostline.streams.table import from_table
from frostline.streams.text import package_docs
from frostline.streams.text_domains import language
from frostline.streams.text_instructions import instructions

__all__ = [
    "DATASETS",
    "DataSet",
    "LoaderSource",
    "TensorSource",
    "from_arrays",
    "from_avalanche",
    "from_table",
    "from_tasks",
    "image_folder",
    "instructions",
    "language",
    "load",
    "package_docs",
]
