"""The control plane: registry, issuing CA, admission, API, ingest."""
