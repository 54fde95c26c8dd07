"""One module a record kind: what crosses the snake, to the byte (docs/reference/subjects.md)."""
