"""Wasm modules at the mixer: trusted vendors, import, registry, assignments, patch sheets, rollback and revocation.

Formats are in docs/reference/modules.md; what is signed in docs/reference/module-signature.md.
"""
