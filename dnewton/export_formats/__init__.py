"""Models for other programs: a net as a list of steps, and one file per format that writes them out."""
