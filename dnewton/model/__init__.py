"""The net on a layout: passes, objective, weights."""
