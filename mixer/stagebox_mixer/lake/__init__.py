"""The lake: where verified journal batches are committed, exactly once, and can be asked questions."""
