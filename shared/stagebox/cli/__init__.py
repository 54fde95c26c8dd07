"""The ``stagebox`` command: one root that every installed distribution adds its commands to."""

from __future__ import annotations


def main() -> None:
    """Run the command line and exit with its code; the entry point of the console script."""
    # OpenSSL reads its configuration once, so this precedes every import that may initialise it.
    from stagebox.cipher_policy import require_aes256

    require_aes256()

    import sys

    try:
        from stagebox.cli.host import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # while our own modules are still being imported
        code = 130
    sys.exit(code)
