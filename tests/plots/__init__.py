"""The plots of the guides, drawn from what the rack's meters and the listener's buffer do."""
