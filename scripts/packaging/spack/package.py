# A Spack recipe, for a repository of your own (`spack repo create`): packages/py_dnewton/package.py in it, or
# packages/py-dnewton/package.py where the repository's API is older than v2. It builds a clone:
#
#   spack dev-build --source-path CLONE py-dnewton@0.1.0 ^mpich
#
# or an archive dnewton-VERSION.tar.gz in the current folder (made in a clone: python -m build --sdist -o .):
#
#   spack install --no-checksum py-dnewton@0.1.0

import os

from spack_repo.builtin.build_systems.python import PythonPackage

from spack.package import *


class PyDnewton(PythonPackage):
    """Trains neural networks with the distributed Newton method on MPI ranks: every rank owns a block of every layer's
    weights and solves its part of a block-diagonal Gauss-Newton system alone."""

    homepage = "https://arxiv.org/abs/1802.00130"
    url = f"file://{os.getcwd()}/dnewton-0.1.0.tar.gz"
    manual_download = True

    license("Apache-2.0", checked_by="dnewton")

    version("0.1.0")  # the archive is made where it is built: there is no checksum to state

    depends_on("python@3.10:", type=("build", "run"))
    depends_on("py-setuptools@68:", type="build")

    with default_args(type=("build", "run")):
        depends_on("py-array-api-compat@1.8:")
        depends_on("py-h5py@3.9:")
        depends_on("py-matplotlib@3.8:")
        depends_on("py-mpi4py@4:")
        depends_on("py-numpy@1.26:")
        depends_on("py-pydantic@2.6:")
        depends_on("py-pyyaml@6:")
        depends_on("py-rich@13:")
        depends_on("py-safetensors@0.4.3:")
        depends_on("py-scikit-learn@1.3:")
        depends_on("py-scipy@1.11:")
        depends_on("py-threadpoolctl@3.2:")

    import_modules = ["dnewton", "dnewton.api", "dnewton.cli"]
