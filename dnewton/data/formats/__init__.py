"""One file for each kind of data file."""
