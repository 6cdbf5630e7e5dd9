"""Pictures and tables of runs, from the files of their run directories: `dnewton report` and `dnewton watch`."""
