"""The appliance: capture, meters, monitor audio, write-ahead log."""
