"""Views of arrays for functions that users wrote."""

from __future__ import annotations

from dnewton.arrays.namespace import Array, on_host


def read_only(array: Array) -> Array:
    """A view in which nothing can be written; the array itself where it is not NumPy's."""
    if not on_host(array):
        return array
    view = array.view()
    view.flags.writeable = False
    return view
