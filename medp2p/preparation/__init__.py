"""Scans as a hospital exports them into a checked, registered, documented training set.

- `planning` makes a plan of a folder or a table: `discovery` finds the images, `pairing` chooses.
- `pipeline` carries it out, in processes (`workers`) that examine each pair (`examination`) and
  put it onto the training grid (`packing`).
- `audit` judges a pair, `set_checks` the set, `audit_files` shows both.

Nothing is imported here, so that a process loads only what its part of the work needs.
"""
