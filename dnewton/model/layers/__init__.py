"""Layers: forward, backward and patches of one rank's slice; none of them communicates."""
