"""Files of a run: its directory, tensors, manifests."""
