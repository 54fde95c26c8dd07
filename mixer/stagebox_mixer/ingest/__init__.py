"""Ingest: from acknowledged journal batches in JetStream to verified, exactly-once commits in the ledger."""
