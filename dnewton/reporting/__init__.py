"""What a run has left, as pictures and tables."""
