"""The solvers: each takes one step at a time over the same networks, data and layout."""
