"""``python -m demo``; ``just demo`` runs it with ``deploy`` on the path."""

import sys

# OpenSSL reads its configuration once, so this precedes every import that may initialise it.
from stagebox.cipher_policy import require_aes256

require_aes256()

from demo.app import main  # noqa: E402

for stream in (sys.stdout, sys.stderr):
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")

sys.exit(main(sys.argv[1:]))
