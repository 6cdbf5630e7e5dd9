"""`cupy.cuda.compiler` of the fake."""


class CompileException(Exception):
    """As CuPy's: no RuntimeError."""
