"""Names of files, and of an array or a group in one: FILE:NAME."""

from __future__ import annotations

import os


def split(name: str) -> tuple[str, str | None]:
    """The file, and what follows the first colon after the name of a file that exists; None where nothing does.

    A file whose own name has colons is found first.
    """
    if os.path.lexists(name):
        return name, None
    end = name.find(":")
    while end >= 0:
        if os.path.isfile(name[:end]):
            return name[:end], name[end + 1 :]
        end = name.find(":", end + 1)
    return name, None


def joined(path: str, inside: str | None) -> str:
    """The inverse of :func:`split`."""
    return path if inside is None else f"{path}:{inside}"


def found(name: str, folder: str) -> str:
    """`name` with the absolute path of its file, looked up in the working directory and then in `folder`; a name that
    is not found stays as it is."""
    for candidate in (name, os.path.join(folder, name)):
        path, inside = split(candidate)
        if os.path.exists(path):
            return joined(os.path.abspath(path), inside)
    return name


def without_folders(name: str) -> str:
    """The name of the file alone, with that of the array in it."""
    path, inside = split(name)
    return joined(os.path.basename(path), inside)
