"""The compiler's process: ``python -m stagebox.modules.compiler PARENT SOURCE TARGET KIND``.

SOURCE and TARGET are descriptors, KIND is ``native`` or ``portable``. Started by :mod:`stagebox.modules.compiling`, and
by nothing else. It imports little, for it starts for every module.
"""

from __future__ import annotations

import os
import sys

from stagebox.modules.confinement import confine
from stagebox.modules.limits import LIMITS
from stagebox.modules.lockdown import lock_down
from stagebox.modules.sealed import read_whole

PREAMBLE = b"\0asm\x01\0\0\0"
REFUSED = 65
"""How this process ends when the module is at fault; its words are in the target then."""


def main() -> int:
    """Compile, and return the exit code."""
    parent, source, target = (int(word) for word in sys.argv[1:4])
    confine(
        parent,
        data_bytes=LIMITS.compile_data_bytes,
        descriptors=LIMITS.compile_descriptors,
        file_bytes=LIMITS.native_bytes,
        cpu_s=LIMITS.compile_cpu_s,
    )
    data = read_whole(source, LIMITS.max_module_bytes)
    if not data.startswith(PREAMBLE):
        return _refuse(target, "it is not a core module in the binary format")
    import wasmtime

    from stagebox.modules.engine import make_engine

    lock_down()
    try:
        native = wasmtime.Module(make_engine(portable=sys.argv[4] == "portable"), data).serialize()
    except wasmtime.WasmtimeError as error:
        return _refuse(target, str(error))
    _write(target, native)
    return 0


def _refuse(target: int, reason: str) -> int:
    _write(target, reason.encode("utf-8", "replace")[: 4 * LIMITS.compile_reason_chars])
    return REFUSED


def _write(target: int, data: bytes | bytearray) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(target, left) :]


if __name__ == "__main__":
    sys.exit(main())
