"""Public data sets that the shipped nets are for: where they come from, and how their files are recognised.

Checksums are those that the sets' own pages or widely used loaders publish; files without one are known by their
numbers of samples and features alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dnewton.errors import UserError

LIBSVM = "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/"
UCI = "https://archive.ics.uci.edu/"


@dataclass(frozen=True)
class PublicSet:
    """A set: a page, the files to fetch from it with their MD5 (empty: none is published), and what is in them."""

    title: str
    page: str
    files: Mapping[str, str]
    size: str
    nets: tuple[str, ...]
    elsewhere: str = ""  # a name in OpenML, or in scikit-learn
    notes: tuple[str, ...] = field(default_factory=tuple)


SETS: dict[str, PublicSet] = {
    "mnist": PublicSet(
        "MNIST handwritten digits",
        "http://yann.lecun.com/exdb/mnist/",
        {
            "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
        },
        "60,000 and 10,000 images of 28 x 28",
        ("mnist_cnn.yaml", "mnist_mlp.yaml"),
        "OpenML mnist_784",
    ),
    "usps": PublicSet(
        "USPS handwritten digits",
        f"{LIBSVM}multiclass.html#usps",
        {"usps.bz2": "ec16c51db3855ca6c91edd34d0e9b197", "usps.t.bz2": "8ea070ee2aca1ac39742fdd1ef5ed118"},
        "7,291 and 2,007 images of 16 x 16",
        ("usps_cnn.yaml", "usps_mlp.yaml"),
        "OpenML USPS",
    ),
    "letter": PublicSet(
        "Letter recognition",
        f"{LIBSVM}multiclass.html#letter",
        {"letter.scale": "", "letter.scale.t": ""},
        "15,000 and 5,000 samples of 16 features",
        ("letter_mlp.yaml",),
        "OpenML letter",
    ),
    "pendigits": PublicSet(
        "Pen-based digits",
        f"{UCI}dataset/81/pen+based+recognition+of+handwritten+digits",
        {"pendigits.tra": "", "pendigits.tes": ""},
        "7,494 and 3,498 samples of 16 features",
        ("pendigits_mlp.yaml",),
        "OpenML pendigits",
    ),
    "satimage": PublicSet(
        "Landsat satellite",
        f"{LIBSVM}multiclass.html#satimage",
        {"satimage.scale": "", "satimage.scale.t": ""},
        "4,435 and 2,000 samples of 36 features",
        ("satimage_mlp.yaml",),
        "OpenML satimage",
    ),
    "dna": PublicSet(
        "DNA splice junctions",
        f"{LIBSVM}multiclass.html#dna",
        {"dna.scale": "", "dna.scale.t": ""},
        "2,000 and 1,186 samples of 180 features",
        ("dna_mlp.yaml",),
        "OpenML dna",
    ),
    "poker": PublicSet(
        "Poker hands",
        f"{UCI}dataset/158/poker+hand",
        {"poker-hand-training-true.data": ""},
        "25,010 samples of 10 features",
        ("poker_mlp.yaml",),
        "OpenML poker-hand",
    ),
    "higgs": PublicSet(
        "HIGGS",
        f"{UCI}dataset/280/higgs",
        {"HIGGS.csv.gz": ""},
        "11,000,000 samples of 28 features, the label first (data.target: 0)",
        ("higgs_mlp.yaml",),
        "OpenML higgs",
    ),
    "cifar10": PublicSet(
        "CIFAR-10",
        "https://www.cs.toronto.edu/~kriz/cifar.html",
        {"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"},
        "50,000 and 10,000 images of 3 x 32 x 32, in data_batch_1.bin to data_batch_5.bin and test_batch.bin",
        ("cifar10_cnn.yaml", "cifar10_mlp.yaml"),
        "OpenML CIFAR_10",
    ),
}


def about(name: str, folder: Path) -> tuple[list[str], bool]:
    """Lines about a set and its files in a folder, and whether none of them differs from what is published.

    Raises UserError for an unknown name and a file that cannot be read.
    """
    if name not in SETS:
        raise UserError(f"get {name}: known are {', '.join(SETS)}")
    known = SETS[name]
    lines = [
        f"{known.title}: {known.size}",
        f"from {known.page}" + (f" (also: {known.elsewhere})" if known.elsewhere else ""),
        f"for {', '.join(known.nets)}: name the files with --set data.train=FILE --set data.test=FILE",
    ]
    fine = True
    for file, published in known.files.items():
        path = folder / file
        if not path.is_file():
            lines.append(f"{file}: not in {folder}; download it from the page")
            continue
        found = checksum(path)
        fine &= not published or found == published
        said = "no checksum is published" if not published else "as published"
        if published and found != published:
            said = f"differs from the published one, {published}: fetch it again"
        lines.append(f"{file}: MD5 {found}, {said}")
    return lines, fine


def checksum(path: Path) -> str:
    """MD5, which the sets' publishers use. Raises UserError."""
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    return digest.hexdigest()
