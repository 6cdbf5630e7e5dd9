"""Runs a module of the package with array-api-strict in a GPU's place: `python strict_job.py MODULE ARGUMENT...`."""

from __future__ import annotations

import runpy
import sys

import places

assert places.ARRAYS == "strict"  # importing it is what does it
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
