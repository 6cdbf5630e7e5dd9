"""The distributed Newton method (Wang et al. 2018)."""
