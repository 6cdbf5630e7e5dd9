"""The nets shipped with the package, found by file name."""
