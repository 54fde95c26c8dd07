"""Every bound on a module's file and on what may be granted to it, in one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModuleFormatLimits:
    """Sizes in bytes, unless the name says otherwise."""

    # The file
    max_module_bytes: int = 4 << 20
    max_sections: int = 512
    max_section_name_bytes: int = 128
    max_signature_section_bytes: int = 8 << 10
    max_name_chars: int = 63
    max_version_chars: int = 64
    max_signer_chars: int = 128
    max_capabilities: int = 16
    max_imports: int = 256
    max_exports: int = 4096
    max_params: int = 64
    max_unit_chars: int = 16
    max_vendor_root_bytes: int = 16 << 10
    max_signature_items: int = 512
    max_params_bytes: int = 16 << 10
    max_types: int = 16_384
    max_functions: int = 65_536
    max_globals: int = 4_096
    max_tables: int = 64
    max_memories: int = 64
    max_values: int = 1_000
    max_item_name_bytes: int = 1_024
    max_constant_bytes: int = 256
    max_patterns: int = 64

    # How far a clock that made a statement may be ahead of the clock that reads it
    clock_skew_ns: int = 300 * 10**9

    # What a countersignature may grant at most
    fuel_per_block: int = 1_000_000_000
    memory_bytes: int = 64 << 20
    table_elements: int = 65_536
    epoch_ms: int = 10_000
    records_per_s: int = 1_000
    record_bytes: int = 32 << 10

    # Compiling, in a process of its own; and the stack of what runs
    compile_s: float = 30.0
    compile_cpu_s: int = 20
    compile_data_bytes: int = 1 << 30
    compile_descriptors: int = 64
    native_bytes: int = 256 << 20
    compile_reason_chars: int = 500
    stack_bytes: int = 512 << 10

    # The patch sheet
    max_inserts: int = 256
    max_insert_id_chars: int = 63
    module_chunk_bytes: int = 256 << 10
    rack_modules_bytes: int = 64 * 2**20  # of the files of one sheet; each counts once


LIMITS = ModuleFormatLimits()
