"""dnewton: distributed Newton training of neural networks with MPI.

Importing the package imports neither mpi4py nor CuPy: `mpirun ... python -m dnewton.train` does.
"""

__version__ = "0.1.0"
