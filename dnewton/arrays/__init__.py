"""The only package that imports CuPy."""
