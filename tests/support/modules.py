"""Wasm modules for tests: vendors, a gain module in WAT, and files that are signed and countersigned.

Keys and times are counted instead of drawn, so a failing test fails again.
"""

from __future__ import annotations

import functools
from collections.abc import Collection
from dataclasses import dataclass, replace

import wasmtime
from nacl.signing import SigningKey

from stagebox.modules.capabilities import Capability
from stagebox.modules.params import Param, encode_params
from stagebox.modules.signing import countersign, sign
from stagebox.modules.statement import ModuleLimits
from stagebox.modules.vendor_root import VendorRoot, VendorRoots

SECOND = 10**9
DAY = 86_400 * SECOND
NOW = 1_767_312_000 * SECOND  # 2026-01-02T00:00:00Z
CLUSTER = "flux-test"
CLUSTER_KEY = SigningKey(bytes(range(32)))
CLUSTER_PUBLIC = bytes(CLUSTER_KEY.verify_key)
LIMITS = ModuleLimits()
GAIN_PARAM = Param("gain", 0, 0.0, 4.0, 1.0, "")
ALL_CAPABILITIES = tuple(sorted(Capability))


@dataclass(frozen=True)
class Vendor:
    """A vendor's key and what a mixer trusts it for."""

    key: SigningKey
    root: VendorRoot

    @property
    def trust(self) -> VendorRoots:
        """A directory of trusted vendors with this one in it."""
        return VendorRoots([self.root])

    def but(self, **changes: object) -> VendorRoots:
        """Return the same directory with a root that differs."""
        return VendorRoots([replace(self.root, **changes)])  # type: ignore[arg-type]


def make_root(
    key: SigningKey,
    *,
    owner: str = "tone-works",
    not_before: int = NOW - 30 * DAY,
    not_after: int = NOW + 365 * DAY,
    capabilities: Collection[Capability] = ALL_CAPABILITIES,
    modules: Collection[str] = ("*",),
    revoked: bool = False,
    reason: str = "",
) -> VendorRoot:
    """Return a vendor root for ``key``."""
    return VendorRoot(
        owner=owner,
        public=bytes(key.verify_key),
        not_before=not_before,
        not_after=not_after,
        capabilities=tuple(sorted(capabilities)),
        modules=tuple(modules),
        revoked=revoked,
        reason=reason,
    )


def make_vendor(number: int = 1, *, owner: str = "tone-works") -> Vendor:
    """Return vendor ``number``, who may sign everything."""
    key = SigningKey(bytes([number]) * 32)
    return Vendor(key, make_root(key, owner=owner))


VENDOR = make_vendor()


def gain_wat(*, pages: int = 5, process: str = "", imports: str = "", extra: str = "") -> str:
    """Return an audio module of ABI v1: output = input · gain, gain being parameter 0.

    ``process`` is put at the beginning of ``process``, ``imports`` and ``extra`` among the module's fields. Buffers are
    128 KiB each: 8 channels of 20 ms at 192 kHz do not fit, and ``init`` refuses them with 1.
    """
    return f"""
    (module
      {imports}
      (memory (export "memory") 5 {pages})
      (global $gain (mut f32) (f32.const 1))
      (global $channels (mut i32) (i32.const 0))
      (global $max (mut i32) (i32.const 0))
      (func (export "init") (param $rate i32) (param $channels i32) (param $max i32) (result i32)
        (global.set $channels (local.get $channels))
        (global.set $max (local.get $max))
        (i32.gt_u (i32.mul (i32.mul (local.get $channels) (local.get $max)) (i32.const 4))
                  (i32.const 131072)))
      (func (export "in_ptr") (result i32) (i32.const 65536))
      (func (export "out_ptr") (result i32) (i32.const 196608))
      (func (export "param") (param $id i32) (param $value f32) (result i32)
        (if (local.get $id) (then (return (i32.const 1))))
        (global.set $gain (local.get $value))
        (i32.const 0))
      (func (export "process") (param $frames i32) (result i32)
        (local $channel i32) (local $i i32) (local $at i32)
        {process}
        (block $done (loop $next_channel
          (br_if $done (i32.ge_u (local.get $channel) (global.get $channels)))
          (local.set $i (i32.const 0))
          (local.set $at
            (i32.mul (i32.mul (local.get $channel) (global.get $max)) (i32.const 4)))
          (block $end (loop $next
            (br_if $end (i32.ge_u (local.get $i) (local.get $frames)))
            (f32.store offset=196608 (local.get $at)
              (f32.mul (f32.load offset=65536 (local.get $at)) (global.get $gain)))
            (local.set $at (i32.add (local.get $at) (i32.const 4)))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br $next)))
          (local.set $channel (i32.add (local.get $channel) (i32.const 1)))
          (br $next_channel)))
        (local.get $frames))
      {extra})
    """


@functools.cache
def assemble(wat: str) -> bytes:
    """Return the binary of a module in the text format."""
    return bytes(wasmtime.wat2wasm(wat))


def unsigned_module(wat: str | None = None, params: Collection[Param] = (GAIN_PARAM,)) -> bytes:
    """Return a module as a build makes it: with its parameters, without a signature."""
    wasm = assemble(gain_wat() if wat is None else wat)
    return wasm + encode_params(params) if params else wasm


def signed_module(
    wasm: bytes | None = None,
    *,
    vendor: Vendor = VENDOR,
    signer: str = "",
    name: str = "gain",
    version: str = "1.0.0",
    capabilities: Collection[Capability] = (Capability.AUDIO,),
    issued: int = NOW - DAY,
    expires: int = NOW + 90 * DAY,
) -> bytes:
    """Return a vendor-signed module; the gain module if none is given."""
    return sign(
        unsigned_module() if wasm is None else wasm,
        key=vendor.key,
        signer=signer or vendor.root.owner,
        name=name,
        version=version,
        capabilities=capabilities,
        issued=issued,
        expires=expires,
    )


def countersigned_module(
    signed: bytes | None = None,
    *,
    key: SigningKey = CLUSTER_KEY,
    cluster: str = CLUSTER,
    granted: Collection[Capability] = (Capability.AUDIO,),
    limits: ModuleLimits = LIMITS,
    serial: int = 1,
    issued: int = NOW,
    expires: int = NOW + 30 * DAY,
) -> bytes:
    """Return a countersigned module; of :func:`signed_module` if none is given."""
    return countersign(
        signed_module() if signed is None else signed,
        key=key,
        cluster=cluster,
        granted=granted,
        limits=limits,
        serial=serial,
        issued=issued,
        expires=expires,
    )
