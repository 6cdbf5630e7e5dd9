"""Python's way in: what `import dnewton` offers, each name loaded when it is first used."""
