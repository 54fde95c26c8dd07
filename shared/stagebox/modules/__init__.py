"""Wasm modules as both ends see them: signatures, interface, parameters, vendor roots and the patch sheet.

Bytes are specified in docs/reference/module-signature.md and module-abi.md. Everything here is pure, and raises.
"""
