"""The readable formats: the names and suffixes by which their modules are found, and what each says of itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from dnewton.comm.communicator import Comm
from dnewton.config.register import Register
from dnewton.data.sources import Source, Values
from dnewton.data.table_keys import NOTHING_SAID, TableKeys


@dataclass(frozen=True)
class Features:
    """What is known of the features where labels do not count: their names, if the training table had a header."""

    names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Arrays:
    """Which arrays of a file are meant, and how samples lie in them: of the YAML, or as the training file has them."""

    name: str | None = None  # of FILE:NAME: an array of samples, or a group
    x: str | None = None
    y: str | None = None
    targets_apart: tuple[int, ...] | None = None  # the targets' shape, where they do not come from this file
    channels: Literal["first", "last"] | None = None
    samples: Literal["rows", "columns"] | None = None


NO_ARRAYS = Arrays()


@dataclass(frozen=True)
class Opening:
    """What opening a file takes besides its name: the YAML key for messages, the declared features, the CSV targets."""

    key: str
    features: int | None
    comm: Comm
    target: Sequence[str | int] | None = None
    zero_based: bool | None = None  # how the training file counts its features, if it is LIBSVM text
    weights: str | int | None = None  # the column or array with weights of the samples; see needs_weights
    unlabelled: Features | None = None  # labels are not looked at, and may be missing
    input: tuple[int, ...] | None = None  # net.input; None: any shape will do
    arrays: Arrays = NO_ARRAYS
    table: TableKeys = NOTHING_SAID  # how tables of text are written, as far as the user says it
    columns: tuple[str, ...] | None = None  # the training table's names of the features, for other tables
    words: bool | None = None  # whether the training labels are words; None: as the file has them
    timeout: float = 60.0  # seconds for what may never end in a damaged file

    @property
    def needs_weights(self) -> bool:
        """Whether a file without the weights' column or array is refused: the training file; others may lack it."""
        return self.weights is not None and self.strict

    @property
    def strict(self) -> bool:
        """Whether what is said of files must hold: of the training file; for others it is what to try first."""
        return self.key == "data.train"


@dataclass(frozen=True)
class Format:
    """One format of files. `open` takes the path, the path of the labels if they are apart, and the rest; it raises
    UserError alike on all ranks and is collective over the world."""

    words: str  # in messages
    takes: Callable[[bytes, str], bool]  # whether a file is of it, by its first bytes (decompressed) and its path
    open: Callable[[str, str | None, Opening], Source]
    packed: bool = False  # read as .gz, .bz2 and .xz, too
    labels_apart: bool = False  # targets may be in another file
    is_table: bool = False  # targets and weights may be named or numbered columns
    has_arrays: bool = False  # arrays may be named: FILE:NAME, data.arrays, data.weights
    oriented: bool = False  # data.channels and data.samples may say how samples lie in it
    # One array by its name (None: the targets), read on the calling rank alone; where labels may be in such a file.
    array: Callable[[str, str | None, Opening], Values] | None = None


_FORMATS = "dnewton.data.formats"

# A file whose suffix is here is of that format; the content of others is asked for in this order, texts last.
FORMATS: Register[Format] = Register(
    "data format",
    {
        ".npy": f"{_FORMATS}.npy",
        ".npz": f"{_FORMATS}.npz",
        ".mat": f"{_FORMATS}.mat",
        ".h5": f"{_FORMATS}.hdf5",
        ".hdf5": f"{_FORMATS}.hdf5",
        "CIFAR records": f"{_FORMATS}.cifar_records",
        "idx": f"{_FORMATS}.idx",
        "CIFAR batch": f"{_FORMATS}.cifar_batches",
        ".svm": f"{_FORMATS}.libsvm",
        ".libsvm": f"{_FORMATS}.libsvm",
        ".svmlight": f"{_FORMATS}.libsvm",
        ".csv": f"{_FORMATS}.tables",
        ".tsv": f"{_FORMATS}.tables",
    },
)


def begins_with(*magic: bytes) -> Callable[[bytes, str], bool]:
    """The test of formats that are known by their first bytes."""
    return lambda head, path: head.startswith(magic)


def opened_by_each(read: Callable[[str, str | None], Source]) -> Callable[[str, str | None, Opening], Source]:
    """Every rank reads a file's header for itself: `read` needs no communication."""

    def open_file(path: str, labels: str | None, opening: Opening) -> Source:
        with opening.comm.raise_together():
            return read(path, labels)

    return open_file


def arrays_opened_by_each(read: Callable[[str, Opening], Source]) -> Callable[[str, str | None, Opening], Source]:
    """Likewise of a file of named arrays, in which the opening may name the weights."""

    def open_file(path: str, labels: str | None, opening: Opening) -> Source:
        with opening.comm.raise_together():
            return read(path, opening)

    return open_file
