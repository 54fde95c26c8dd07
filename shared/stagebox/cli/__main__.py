"""``python -m stagebox.cli``: the same as the ``stagebox`` console script."""

from stagebox.cli import main

main()
