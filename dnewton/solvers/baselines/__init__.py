"""The comparison solvers, on the same nets and layout."""
