"""dnewton: distributed Newton training of neural networks with MPI.

    import dnewton as dn
    net = dn.net([2], [dn.dense(32, "tanh"), dn.dense(1)], loss="squared")
    model = dn.fit(net, x, y)
    model.predict(x)

Each name is loaded when it is first used: importing the package imports neither NumPy nor mpi4py, and starts no MPI.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from dnewton.api.columns import columns as columns
    from dnewton.api.estimators import DNewtonClassifier as DNewtonClassifier
    from dnewton.api.estimators import DNewtonRegressor as DNewtonRegressor
    from dnewton.api.fit import fit as fit
    from dnewton.api.losses import Loss as Loss
    from dnewton.api.losses import loss as loss
    from dnewton.api.model import Model as Model
    from dnewton.api.model import load as load
    from dnewton.api.nets import avgpool as avgpool
    from dnewton.api.nets import conv as conv
    from dnewton.api.nets import dense as dense
    from dnewton.api.nets import flatten as flatten
    from dnewton.api.nets import fourier as fourier
    from dnewton.api.nets import global_avgpool as global_avgpool
    from dnewton.api.nets import maxpool as maxpool
    from dnewton.api.nets import net as net
    from dnewton.api.nets import residual as residual
    from dnewton.api.terms import Data as Data
    from dnewton.api.terms import Parameter as Parameter
    from dnewton.api.terms import Residual as Residual
    from dnewton.errors import UserError as UserError

_HOMES = {  # name: its module and its name there
    "fit": ("dnewton.api.fit", "fit"),
    "load": ("dnewton.api.model", "load"),
    "Model": ("dnewton.api.model", "Model"),
    "columns": ("dnewton.api.columns", "columns"),
    **{
        name: ("dnewton.api.nets", name)
        for name in ("net", "dense", "conv", "maxpool", "avgpool", "global_avgpool", "flatten", "residual", "fourier")
    },
    "DNewtonRegressor": ("dnewton.api.estimators", "DNewtonRegressor"),
    "DNewtonClassifier": ("dnewton.api.estimators", "DNewtonClassifier"),
    "Loss": ("dnewton.api.losses", "Loss"),
    "loss": ("dnewton.api.losses", "loss"),
    **{name: ("dnewton.api.terms", name) for name in ("Residual", "Data", "Parameter")},
    "UserError": ("dnewton.errors", "UserError"),
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dnewton' has no attribute {name!r}")
    from importlib import import_module

    module, inside = _HOMES[name]
    value = getattr(import_module(module), inside)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
