"""`cupyx.scipy` of the fake."""
