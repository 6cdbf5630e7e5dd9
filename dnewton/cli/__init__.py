"""Command lines: what parses and prints."""
