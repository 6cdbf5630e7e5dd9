"""`cupy.fft`: there for array_api_compat, which imports it."""

from __future__ import annotations

import numpy as np

from cupy._core import apply

_NAMES = """
    fft fft2 fftfreq fftn fftshift hfft ifft ifft2 ifftn ifftshift ihfft irfft irfft2 irfftn rfft rfft2 rfftfreq rfftn
"""

for _name in _NAMES.split():
    globals()[_name] = lambda *args, _n=_name, **kwargs: apply(
        _n, getattr(np.fft, _n), args, kwargs, needs_array=not _n.endswith("freq")
    )
