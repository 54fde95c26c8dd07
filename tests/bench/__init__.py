"""Benchmarks: every figure of ours beside the raw limit, measured in the same run."""

import stagebox_rack  # noqa: F401 - before numpy: it says that BLAS shall use one thread, as in a rack's process
from stagebox.cipher_policy import require_aes256

# OpenSSL reads its configuration once: before any module of this package imports it.
require_aes256()
