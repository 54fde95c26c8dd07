"""What the meters read of the signals the standards name; `python -m conformance.report` makes a page of it."""
