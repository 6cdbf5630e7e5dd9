"""Data sets: sources that give columns, targets, and scaling fitted on the training part."""
