"""`cupy.lib` of the fake."""

from cupy.lib import stride_tricks as stride_tricks
