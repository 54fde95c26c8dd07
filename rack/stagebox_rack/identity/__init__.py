"""The rack's identity over time: staged, proved, promoted; which of two to show; what is kept beside it."""
