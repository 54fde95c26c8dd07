"""Makes the vectors of the shared formats: ``python -m vectors.make_vectors [directory]``, run in ``tests/``.

Written from docs/reference/ alone: it imports nothing of Stagebox, so the code under test cannot agree with
itself. Keys and times are counted instead of drawn, so every run writes the same bytes. The keys in here
protect nothing.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from blake3 import blake3

from vectors.audit_vectors import audit_vectors
from vectors.control_vectors import control_vectors
from vectors.module_vectors import module_vectors
from vectors.plain import (
    BOOT,
    CLUSTER,
    DOMAINS,
    RACK,
    STRANGER,
    T0,
    Ca,
    Float32s,
    Int8s,
    Int16s,
    Map,
    cbor,
    envelope,
    flipped,
    head,
    without,
)

MACHINE_ID = "0123456789abcdef0123456789abcdef"


def plain(value: Any) -> Any:
    """Return what JSON can hold: byte strings as hex, typed arrays as lists."""
    match value:
        case bytes():
            return value.hex()
        case dict():
            return {key: plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
    return value


# --- envelope --------------------------------------------------------------------------------------------


def envelope_vectors() -> Map:
    """Envelopes that verify and envelopes that must not."""
    payload = b"what is signed"
    good = envelope("wal", payload, RACK)
    signature = RACK.sign(DOMAINS["wal"] + payload).signature
    body = cbor("Payload") + cbor(payload)
    tail = cbor("Signature") + cbor(signature)
    extra = {"Payload": payload, "Signature": signature, "X": 0}
    malformed = {
        "empty": b"",
        "truncated by one byte": good[:-1],
        "one byte follows": good + b"\0",
        "a third field": cbor(extra),
        "keys in the wrong order": head(5, 2) + tail + body,
        "the same key twice": head(5, 3) + body + body + tail,
        "indefinite length map": b"\xbf" + body + tail + b"\xff",
        "payload length in a longer head than needed": good.replace(
            cbor(payload), b"\x58" + bytes([len(payload)]) + payload
        ),
        "signature of 63 bytes": cbor({"Payload": payload, "Signature": signature[:-1]}),
        "payload is text": cbor({"Payload": "what is signed", "Signature": signature}),
        "an array": cbor([payload, signature]),
    }
    unproved = {
        "one bit of the payload flipped": flipped(good, good.index(payload)),
        "one bit of the signature flipped": flipped(good, len(good) - 1),
        "signed for another purpose": envelope("seal", payload, RACK),
        "signed by another key": envelope("wal", payload, STRANGER),
        "signed without a domain": cbor({"Payload": payload, "Signature": RACK.sign(payload).signature}),
    }
    return {
        "key": {"seed": bytes(RACK), "public": bytes(RACK.verify_key)},
        "domains": DOMAINS,
        "valid": [
            {
                "domain": name,
                "payload": payload,
                "signature": RACK.sign(DOMAINS[name] + payload).signature,
                "envelope": envelope(name, payload, RACK),
            }
            for name in DOMAINS
        ],
        "refused": [
            {"reason": reason, "domain": "wal", "error": error, "envelope": data}
            for error, table in (("DecodeError", malformed), ("VerificationError", unproved))
            for reason, data in table.items()
        ],
    }


# --- identity and passport -------------------------------------------------------------------------------


def machine_number(text: str) -> int:
    """Return the machine_id of a passport for the contents of /etc/machine-id."""
    digest = blake3(bytes.fromhex(text), derive_key_context="stagebox.machine_id.v1").digest(8)
    return int.from_bytes(digest, "big")


def identity_vectors() -> Map:
    """Names, SPIFFE identities and the machine id."""
    good = "spiffe://flux-prod/tenant/default/rack/stage-left"
    bad = [good.upper(), good + "/", good + "?x", good.replace("tenant", "tenants"), good.replace("//", "/")]
    bad += ["spiffe://flux-prod/client/root/ops", "spiffe://flux-prod/mixer/", "https://flux-prod/mixer/a"]
    long = "a" * 63
    return {
        "names": {
            "legal": ["a", "0", "stage-left", "a--b", long],
            "refused": ["", "-a", "a-", "A", "a.b", "a_b", "a/b", "a*", "é", "a\n", long + "a"],
        },
        "spiffe": {
            "legal": [good, "spiffe://flux-prod/client/viewer/ops", "spiffe://flux-prod/mixer/mixer-1"],
            "refused": bad,
        },
        "machine_id": [
            {"file": text, "uint64": str(machine_number(text))} for text in (MACHINE_ID, "f" * 32)
        ],
    }


def passport_fields() -> Map:
    """The passport every vector is made of."""
    return {
        "Version": 1,
        "ClusterID": "flux-prod",
        "machine_id": machine_number(MACHINE_ID),
        "Name": "stage-left",
        "Tenant": "default",
        "Status": "active",
        "Secret": "a-secret-of-no-cluster-at-all",
        "ClusterPublic": bytes(CLUSTER.verify_key),
        "RackPublic": bytes(RACK.verify_key),
        "Serial": 1,
        "IssuedAt": T0,
        "NotAfter": T0 + 365 * 86_400 * 10**9,
    }


def passport_vectors() -> Map:
    """Passports that verify and passports that must not."""
    fields = passport_fields()
    good = envelope("passport", cbor(fields), CLUSTER)
    changed: dict[str, Map] = {
        "unknown version": {**fields, "Version": 2},
        "version is a boolean": {**fields, "Version": True},
        "unknown status": {**fields, "Status": "retired"},
        "serial is text": {**fields, "Serial": "1"},
        "machine_id is negative": {**fields, "machine_id": -1},
        "rack key of 31 bytes": {**fields, "RackPublic": fields["RackPublic"][:-1]},
        "name is no legal name": {**fields, "Name": "stage.left"},
        "embeds another cluster key": {**fields, "ClusterPublic": bytes(STRANGER.verify_key)},
        **{f"no {name}": without(fields, name) for name in fields},
    }
    refused = {reason: envelope("passport", cbor(table), CLUSTER) for reason, table in changed.items()}
    unsorted = head(5, len(fields)) + b"".join(cbor(key) + cbor(item) for key, item in fields.items())
    tagged = cbor(fields).replace(cbor("Serial") + b"\x01", cbor("Serial") + b"\xc1\x01")
    refused |= {
        "keys not in deterministic order": envelope("passport", unsorted, CLUSTER),
        "a tag no format uses": envelope("passport", tagged, CLUSTER),
        "one bit of the name flipped": flipped(good, good.index(b"stage-left")),
        "one bit of the signature flipped": flipped(good, len(good) - 1),
        "signed by another cluster": envelope("passport", cbor(fields), STRANGER),
        "signed for another purpose": envelope("checkpoint", cbor(fields), CLUSTER),
        "truncated": good[:-7],
    }
    unknown = {**fields, "Serial": 2, "Colour": {"stage": "left", "lamps": [1, 2]}}
    return {
        "cluster": {"seed": bytes(CLUSTER), "public": bytes(CLUSTER.verify_key)},
        "rack": {"seed": bytes(RACK), "public": bytes(RACK.verify_key)},
        "valid": [
            {"name": name, "fields": table, "payload": cbor(table),
             "passport": envelope("passport", cbor(table), CLUSTER)}
            for name, table in (("active", fields), ("pending", {**fields, "Status": "pending"}),
                                ("unknown field is kept", unknown))
        ],
        "refused": [{"reason": reason, "passport": data} for reason, data in refused.items()],
    }  # fmt: skip


# --- records ---------------------------------------------------------------------------------------------


def digest(subject: str, payload: bytes) -> bytes:
    """Return the digest a checkpoint lists."""
    return blake3(b"stagebox.record.v1\0" + subject.encode() + b"\0" + payload).digest()


def live_records() -> list[tuple[str, str, Map]]:
    """(kind, subject, fields) of one record of each kind, and a second meter frame."""
    common = {"v": 1, "seq": 1, "boot": BOOT, "t": T0}
    base = "rack.stage-left"
    # Hundredths of a dB, LU or LUFS; -32768 and -128 stand for "no value".
    meter = {
        "v": 2, "start": 0, "n": 2400, "rate": 48_000, "peak": Int16s((-2000, -650)), "hold": Int16s((-1800, 0)),
        "tp": Int16s((-1975, -625)), "rms": Int16s((-2325, -950)), "p1": Int16s((-2050, -700)),
        "p2": Int16s((-2075, -725)), "vu": Int16s((-2100, -900)), "m": Int16s((-2350, -15000)),
        "flags": bytes((0, 3)), "corr": Int8s((-100,)),
        "prog": Int16s((-2075, -2150, -2300, -32768, -2000, -2125, -625)),
    }  # fmt: skip
    later = {
        "seq": 2, "t": T0 + 50_000_000, "start": 2400, "corr": Int8s((-128,)), "later-field": "kept",
        "prog": Int16s((-2070, -2150, -2300, 512, -2000, -2125, -625, *(-2300,) * 7)),
    }  # fmt: skip
    audio = {"start": 0, "n": 960, "rate": 48_000, "ch": 2, "codec": "opus", "data": bytes.fromhex("fcfffe")}
    return [
        ("meter", f"{base}.meter.main", {**common, **meter}),
        ("meter", f"{base}.meter.main", {**common, **meter, **later}),
        ("audio", f"{base}.audio.main", {**common, **audio}),
        ("status", f"{base}.status", {**common, "state": "running", "body": {"uptime_s": 1.5}}),
        ("event", f"{base}.event", {**common, "event": "rack_started", "detail": {"sources": ["tone:997"]}}),
        ("event", f"{base}.alert", {**common, "event": "device_lost", "detail": {"source": "main"}}),
    ]


def module_records() -> list[tuple[str, str, Map]]:
    """Two records of modules, as :func:`live_records`: of one at a source, and of one that hears records."""
    common = {"v": 1, "seq": 1, "boot": BOOT, "t": T0 + 2 * 10**9}
    base = "rack.stage-left.module"
    spl = {
        "module": "spl-logger",
        "version": "1.2.0",
        "insert": "spl-main",
        "source": "main",
        "start": 96_000,
    }
    noise = {"module": "noise", "version": "0.3.0-rc.1", "insert": "noise", "source": "", "start": 0}
    classes = {"class": "impulse", "bands": [0.5, 0.25, 0.0], "frame": {"seq": 7}}
    return [
        ("module", f"{base}.spl-logger.leq", {**common, **spl, "data": {"laeq": -23.5, "seconds": 1}}),
        ("module", f"{base}.noise.events", {**common, **noise, "data": classes, "later-field": "kept"}),
    ]


def earlier_meter() -> Map:
    """A meter frame of version 1, which racks of the first release made."""
    return {
        "v": 1, "seq": 1, "boot": BOOT, "t": T0, "start": 0, "n": 2400, "rate": 48_000,
        "peak": Float32s((-20.0, -6.5)), "rms": Float32s((-23.25, -9.5)), "tp": Float32s((-19.75, -6.25)),
        "m": Float32s((-23.5, -150.0)), "pm": -20.75,
    }  # fmt: skip


def record_vectors() -> Map:
    """Live records with their digests, and records that must not decode."""
    records = [*live_records(), *module_records()]
    meter, audio, event, module = (records[number][2] for number in (0, 2, 4, 6))
    data = cbor(meter)
    refused = {
        "meter": {
            "unknown version": cbor({**meter, "v": 3}),
            "version 1 with the arrays of version 2": cbor({**meter, "v": 1}),
            "version 2 with the arrays of version 1": cbor({**earlier_meter(), "v": 2}),
            "no sequence number": cbor(without(meter, "seq")),
            "boot id of 15 bytes": cbor({**meter, "boot": BOOT[:-1]}),
            "negative time": cbor({**meter, "t": -1}),
            "arrays of different lengths": cbor({**meter, "rms": Int16s((-100,))}),
            "flags of three channels": cbor({**meter, "flags": bytes(3)}),
            "six values of a programme": cbor({**meter, "prog": Int16s((0,) * 6)}),
            "seventeen programmes": cbor({**meter, "prog": Int16s((0,) * 119)}),
            "no channel at all": cbor(
                {
                    **meter,
                    "flags": b"",
                    **dict.fromkeys(("peak", "hold", "tp", "rms", "p1", "p2", "vu", "m"), Int16s()),
                }
            ),
            "levels without the tag": cbor({**meter, "peak": bytes(4)}),
            "levels of another tag": data.replace(b"\xd8\x4d", b"\xd8\x49", 1),
            "three bytes of levels": cbor({**meter, "peak": 0}).replace(
                cbor("peak") + b"\0", cbor("peak") + b"\xd8\x4d" + cbor(bytes(3))
            ),
            "truncated": data[:-1],
            "one byte follows": data + b"\0",
            "the same key twice": head(5, len(meter) + 1) + data[1:] + cbor("v") + cbor(1),
            "indefinite length": b"\xbf" + data[1:] + b"\xff",
        },
        "audio": {
            "data is text": cbor({**audio, "data": "fcfffe"}),
            "257 channels": cbor({**audio, "ch": 257}),
        },
        "event": {"detail is a list": cbor({**event, "detail": []})},
        "module": {
            "version 2": cbor({**module, "v": 2}),
            "data is a number": cbor({**module, "data": 1}),
            "a key of data is a number": cbor({**module, "data": 0}).replace(
                cbor("data") + b"\0", cbor("data") + b"\xa1\x01\x02"
            ),
            "no insert": cbor(without(module, "insert")),
            "negative start": cbor({**module, "start": -1}),
        },
    }
    return {
        "valid": [
            {"kind": kind, "subject": subject, "fields": fields, "record": cbor(fields),
             "digest": digest(subject, cbor(fields))}
            for kind, subject, fields in records
        ],
        "earlier": [{"kind": "meter", "fields": earlier_meter(), "record": cbor(earlier_meter())}],
        "refused": [
            {"kind": kind, "reason": reason, "record": record}
            for kind, table in refused.items()
            for reason, record in table.items()
        ],
    }  # fmt: skip


# --- checkpoint ------------------------------------------------------------------------------------------


def checkpoint_vectors() -> Map:
    """Three checkpoints that prove the live records, and checkpoints that must not be believed."""
    root, other = Ca(1000), Ca(2000)
    uri = "spiffe://flux-prod/tenant/default/rack/stage-left"
    records = [(subject, cbor(fields)) for _, subject, fields in live_records()]
    streams: dict[str, Map] = {}
    for subject, record in records:
        stream = streams.setdefault(subject, {"First": 1, "Digests": b""})
        stream["Digests"] += digest(subject, record)
    meter = {"rack.stage-left.meter.main": streams.pop("rack.stage-left.meter.main")}
    one: Map = {
        "Version": 1, "Rack": "stage-left", "Boot": BOOT, "Seq": 1, "Prev": bytes(32), "From": T0,
        "To": T0 + 10**9, "Streams": meter, "Chain": [root.rack(uri, bytes(RACK.verify_key))],
    }  # fmt: skip
    two: Map = {**one, "Seq": 2, "From": T0 + 10**9, "To": T0 + 2 * 10**9, "Streams": streams}
    two["Prev"] = blake3(cbor(one)).digest()
    said = {
        subject: {"First": 1, "Digests": digest(subject, cbor(fields))}
        for _, subject, fields in module_records()
    }
    three: Map = {**one, "Seq": 3, "From": T0 + 2 * 10**9, "To": T0 + 3 * 10**9, "Streams": said}
    three["Prev"] = blake3(cbor(two)).digest()
    good = envelope("checkpoint", cbor(one), RACK)
    foreign = {"rack.stage-right.status": streams["rack.stage-left.status"]}
    ragged = {"rack.stage-left.status": {"First": 1, "Digests": bytes(31)}}
    client = root.rack("spiffe://flux-prod/client/viewer/ops", bytes(RACK.verify_key))
    changed: dict[str, Map] = {
        "unknown version": {**one, "Version": 2},
        "of another rack": {**one, "Rack": "stage-right"},
        "vouches for another rack's subject": {**one, "Streams": foreign},
        "31 bytes of digests": {**one, "Streams": ragged},
        "no digest at all": {**one, "Streams": {"rack.stage-left.status": {"First": 1, "Digests": b""}}},
        "no certificate": {**one, "Chain": []},
        "certificate of a client": {**one, "Chain": [client]},
        "certificate from another root": {**one, "Chain": [other.rack(uri, bytes(RACK.verify_key))]},
        "certificate for another key": {**one, "Chain": [root.rack(uri, bytes(STRANGER.verify_key))]},
        "number 0": {**one, "Seq": 0},
        "number 2 without a predecessor": {**one, "Seq": 2},
    }  # fmt: skip
    refused = {reason: envelope("checkpoint", cbor(table), RACK) for reason, table in changed.items()}
    refused |= {
        "signed by another key": envelope("checkpoint", cbor(one), STRANGER),
        "signed for another purpose": envelope("wal", cbor(one), RACK),
        "one bit of a digest flipped": flipped(good, good.index(meter[next(iter(meter))]["Digests"])),
    }
    forks = {
        "another checkpoint with number 1": {**one, "To": one["To"] + 1},
        "number 2 names another predecessor": {**two, "Prev": bytes(31) + b"\1"},
    }
    return {
        "root": root.der,
        "verify_at": "2026-01-02T00:00:00+00:00",
        "too_early": "2025-12-31T23:59:59+00:00",
        "too_late": "2026-01-31T00:00:01+00:00",
        "rack": {"seed": bytes(RACK), "public": bytes(RACK.verify_key)},
        "subject": "rack.stage-left.checkpoint",
        "valid": [
            {"fields": table, "payload": cbor(table), "payload_hash": blake3(cbor(table)).digest(),
             "checkpoint": envelope("checkpoint", cbor(table), RACK)}
            for table in (one, two, three)
        ],
        "refused": [{"reason": reason, "checkpoint": data} for reason, data in refused.items()],
        "refused_after_the_first": [
            {"reason": reason, "checkpoint": envelope("checkpoint", cbor(table), RACK)}
            for reason, table in forks.items()
        ],
    }  # fmt: skip


VECTORS = {
    "audit": audit_vectors,
    "checkpoint": checkpoint_vectors,
    "control": control_vectors,
    "envelope": envelope_vectors,
    "identity": identity_vectors,
    "module-signature": module_vectors,
    "passport": passport_vectors,
    "records": record_vectors,
}


def main() -> None:
    """Write every file."""
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    for name, make in VECTORS.items():
        text = json.dumps(plain(make()), indent=1, ensure_ascii=True)
        (directory / f"{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
