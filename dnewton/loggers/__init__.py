"""The figures of a run for other programs that show them: one file per logger, whose library is an optional extra."""
