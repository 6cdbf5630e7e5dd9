"""Losses, Jacobian blocks and Gauss-Newton products."""
