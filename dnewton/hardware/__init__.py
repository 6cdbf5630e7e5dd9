"""What a rank runs on: cores, memory, GPU, measured rates."""
