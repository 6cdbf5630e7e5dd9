"""One run: from a configuration to a job, the outer loop, checkpoints."""
