"""Many scans into many translations: worklist, guard, pipeline, journal.

`make_worklist` finds the scans that a model is for, `convert` translates them, and the journal
in the output folder says of every scan what became of it.
"""
