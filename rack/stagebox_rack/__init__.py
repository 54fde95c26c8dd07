"""The appliance: capture, meters, monitor audio, write-ahead log."""

from __future__ import annotations

import os

# The matrices of the meters are small: a threaded BLAS would spin the other cores for nothing. It must be said
# before numpy is first imported (pyarrow imports it too); an operator's own setting stands.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
