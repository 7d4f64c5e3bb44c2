"""A file that `export` copies into a checkpoint, where it stands beside `context_vector.py` and `recurrence.py`."""
