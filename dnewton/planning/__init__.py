"""Decisions made before a run from the net and the machine alone; nothing here communicates."""
