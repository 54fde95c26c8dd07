"""The vectors of control messages, made from docs/reference/control.md alone."""

from __future__ import annotations

from typing import Any

from blake3 import blake3
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from vectors.plain import (
    BOOT,
    CLUSTER,
    RACK,
    STRANGER,
    T0,
    Ca,
    Map,
    cbor,
    envelope,
    flipped,
    head,
    without,
)

URI = "spiffe://flux-prod/tenant/default/rack/stage-left"
PASSPORT = b"a passport stands here"
FINGERPRINT = "sha256:" + "0f" * 32
NAMES = {"Version": 1, "Cluster": "flux-prod", "Rack": "stage-left"}


def csr() -> bytes:
    """Return the DER of a PKCS#10 request for the rack's key."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "stage-left")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    return builder.sign(Ed25519PrivateKey.from_private_bytes(bytes(RACK)), None).public_bytes(Encoding.DER)


def digest(fields: Map) -> bytes:
    """Return how an answer names its request and an ack its command."""
    return blake3(cbor(fields)).digest()


class Messages:
    """One set of messages that belong to each other."""

    def __init__(self) -> None:
        ca = Ca(3000)
        self.root = ca.der
        self.chain = [ca.rack(URI, bytes(RACK.verify_key))]
        self.deny_list: Map = {
            "Version": 1, "Cluster": "flux-prod", "Epoch": 3, "Time": T0,
            "Denied": [["certificate", FINGERPRINT, T0], ["machine", "00000000000000ff", T0 - 2],
                       ["rack", "stage-right", T0 - 1]],
        }  # fmt: skip
        self.revoked: Map = {
            **self.deny_list, "Epoch": 4,
            "Modules": [["module", "sha256:" + "0e" * 32, T0 + 1], ["vendor", "0d" * 16, T0 + 2]],
        }  # fmt: skip
        gain: Map = {
            "ID": "gain-1f0c9b2a", "Module": "gain", "ModuleVersion": "1.0.0-rc.1+night", "Digest": bytes(range(32)),
            "Size": 2718, "Point": "monitor", "Source": "main", "Bus": "foldback", "Params": {"gain": 0.5, "mix": 0.3},
        }  # fmt: skip
        self.insert = gain
        noise: Map = {
            **gain, "ID": "noise", "Module": "noise-events", "ModuleVersion": "2.0.0", "Point": "telemetry",
            "Source": "", "Bus": "", "Params": {},
        }  # fmt: skip
        self.patch: Map = {**NAMES, "Serial": T0, "Inserts": [gain, noise]}
        self.asks_patch = self.request("patch", {"Serial": T0 - 1})
        self.patched = self.answer(self.asks_patch, {"Sheet": envelope("patch", cbor(self.patch), CLUSTER)})
        self.asks_module = self.request("module", {"Digest": bytes(range(32)), "Offset": 0})
        self.piece = self.answer(self.asks_module, {"Size": 2718, "Data": b"the first bytes of the file"})
        self.not_assigned = {
            **self.answer(self.asks_module, {}), "Error": "not_assigned", "Message": "not on the patch sheet",
        }  # fmt: skip
        self.no_bans: Map = {**self.deny_list, "Epoch": 0, "Time": 0, "Denied": []}
        self.trust: Map = {
            "Version": 1, "Cluster": "flux-prod", "Serial": 1, "Issued": T0, "Roots": [self.root],
            "ClusterPublic": bytes(CLUSTER.verify_key),
        }  # fmt: skip
        self.renew = self.request("renew", {"Csr": csr(), "Passport": PASSPORT, "Chain": self.chain})
        self.sync = self.request(
            "sync",
            {"Serial": 4, "Status": "active", "Command": 6, "DenyEpoch": 3, "Chain": self.chain,
             "Renewal": "mixer", "Problem": ""},
        )  # fmt: skip
        self.bans = self.request("deny-list", {"List": envelope("deny_list", cbor(self.deny_list), CLUSTER)})
        trust = envelope("trust", cbor(self.trust), CLUSTER)
        renewal = {"Chain": self.chain, "Trust": trust, "Passport": PASSPORT}
        self.renewed = self.answer(self.renew, renewal)
        self.too_soon = {
            **self.answer(self.renew, {}), "Error": "too_soon", "Message": "renewed 5 s ago; try again in 55 s",
        }  # fmt: skip
        self.synced = self.answer(self.sync, {"DenyList": b"", "WantDenyList": False, "Command": 7})
        self.command: Map = {
            **NAMES, "Seq": 7, "Issued": T0, "Expires": T0 + 30 * 10**9, "Verb": "passport",
            "Args": {"Passport": PASSPORT},
        }  # fmt: skip
        self.status: Map = {**self.command, "Seq": 8, "Verb": "status", "Args": {}}
        self.ack: Map = {
            **NAMES, "Seq": 7, "Command": digest(self.command), "Boot": BOOT, "Time": T0 + 10**7,
            "Result": "done", "Reason": "",
        }  # fmt: skip
        self.refusal: Map = {**self.ack, "Seq": 8, "Command": digest(self.status), "Result": "refused",
                             "Reason": "expired"}  # fmt: skip

    def request(self, verb: str, body: Map) -> Map:
        """Return the fields of a request."""
        return {**NAMES, "Verb": verb, "Nonce": bytes(range(0xA0, 0xB0)), "Time": T0, "Body": body}

    def answer(self, request: Map, body: Map) -> Map:
        """Return the fields of the answer that grants ``request``."""
        return {
            **NAMES, "Verb": request["Verb"], "Request": digest(request), "Time": T0 + 10**6, "Error": "",
            "Message": "", "Body": body,
        }  # fmt: skip


def control_vectors() -> Map:
    """Control messages that verify and control messages that must not."""
    made = Messages()
    valid = [
        ("request", "renew", made.renew), ("request", "sync", made.sync), ("request", "deny-list", made.bans),
        ("answer", "renewed", made.renewed), ("answer", "too soon", made.too_soon),
        ("answer", "synced", made.synced), ("command", "passport", made.command),
        ("command", "status", made.status), ("ack", "done", made.ack), ("ack", "refused", made.refusal),
        ("trust", "one root", made.trust), ("deny_list", "three bans", made.deny_list),
        ("patch", "two modules", made.patch), ("patch", "nothing", {**made.patch, "Serial": 0, "Inserts": []}),
        ("request", "patch", made.asks_patch), ("answer", "patched", made.patched),
        ("request", "module", made.asks_module), ("answer", "piece", made.piece),
        ("answer", "not assigned", made.not_assigned),
        ("deny_list", "no ban", made.no_bans), ("deny_list", "a module and a vendor revoked", made.revoked),
        ("command", "unknown field is kept", {**made.status, "Colour": {"lamps": [1, 2]}}),
    ]  # fmt: skip
    return {
        "cluster": {"seed": bytes(CLUSTER), "public": bytes(CLUSTER.verify_key)},
        "rack": {"seed": bytes(RACK), "public": bytes(RACK.verify_key)},
        "valid": [
            {"kind": kind, "name": name, "fields": fields, "payload": cbor(fields), "digest": digest(fields),
             "envelope": envelope(kind, cbor(fields), signer(kind))}
            for kind, name, fields in valid
        ],
        "refused": refused(made),
        "refused_bodies": refused_bodies(made),
    }  # fmt: skip


def signer(kind: str) -> Any:
    """Return the key that signs messages of a kind."""
    return RACK if kind in ("request", "ack") else CLUSTER


def refused(made: Messages) -> list[Map]:
    """Envelopes that must not be believed, each with its reason."""
    good = {"request": made.renew, "answer": made.renewed, "command": made.command, "ack": made.ack,
            "trust": made.trust, "deny_list": made.deny_list, "patch": made.patch}  # fmt: skip
    malformed: dict[str, dict[str, Map]] = {
        kind: {
            "unknown version": {**fields, "Version": 2},
            "version is a boolean": {**fields, "Version": True},
            **{f"no {name}": without(fields, name) for name in fields},
        }
        for kind, fields in good.items()
    }
    malformed["request"] |= {
        "nonce of 15 bytes": {**made.renew, "Nonce": bytes(15)},
        "body is a list": {**made.renew, "Body": []},
        "verb is bytes": {**made.renew, "Verb": b"renew"},
    }
    malformed["answer"] |= {"digest of 31 bytes": {**made.renewed, "Request": bytes(31)}}
    malformed["command"] |= {
        "negative sequence": {**made.command, "Seq": -1},
        "expiry is a float": {**made.command, "Expires": 1.5},
        "arguments are text": {**made.command, "Args": "x"},
    }
    malformed["ack"] |= {
        "unknown result": {**made.ack, "Result": "maybe"},
        "digest of 31 bytes": {**made.ack, "Command": bytes(31)},
        "boot id of 15 bytes": {**made.ack, "Boot": bytes(15)},
    }
    malformed["trust"] |= {
        "no root at all": {**made.trust, "Roots": []},
        "four roots": {**made.trust, "Roots": [made.root] * 4},
        "cluster key of 31 bytes": {**made.trust, "ClusterPublic": bytes(31)},
    }
    malformed["deny_list"] |= {
        "unknown kind": {**made.deny_list, "Denied": [["tenant", "default", 0]]},
        "ban of two parts": {**made.deny_list, "Denied": [["rack", "stage-right"]]},
        "illegal rack name": {**made.deny_list, "Denied": [["rack", "stage.right", 0]]},
        "machine id of 15 digits": {**made.deny_list, "Denied": [["machine", "0" * 15, 0]]},
        "fingerprint in capitals": {**made.deny_list, "Denied": [["certificate", FINGERPRINT.upper(), 0]]},
        "since before 1970": {**made.deny_list, "Denied": [["rack", "stage-right", -1]]},
        "module among the racks": {**made.deny_list, "Denied": [["module", FINGERPRINT, 0]]},
        "vendor among the racks": {**made.deny_list, "Denied": [["vendor", "0d" * 16, 0]]},
        "rack among the modules": {**made.deny_list, "Modules": [["rack", "stage-right", 0]]},
        "unknown kind among the modules": {**made.deny_list, "Modules": [["chain", FINGERPRINT, 0]]},
        "key id of 31 digits": {**made.deny_list, "Modules": [["vendor", "0" * 31, 0]]},
        "modules there and empty": {**made.deny_list, "Modules": []},
        "modules are a map": {**made.deny_list, "Modules": {}},
    }
    malformed["patch"] |= {
        **{
            reason: {**made.patch, "Inserts": [insert]} for reason, insert in bad_inserts(made.insert).items()
        },
        "insert is a list": {**made.patch, "Inserts": [[made.insert]]},
        "two inserts of one id": {**made.patch, "Inserts": [made.insert, made.insert]},
    }
    tables = [
        ("DecodeError", kind, reason, envelope(kind, cbor(fields), signer(kind)))
        for kind, table in malformed.items()
        for reason, fields in table.items()
    ]
    for kind, fields in good.items():
        payload, key = cbor(fields), signer(kind)
        whole = envelope(kind, payload, key)
        other = "ack" if kind != "ack" else "command"
        unsorted = head(5, len(fields)) + b"".join(
            cbor(name) + cbor(value) for name, value in sorted(fields.items(), reverse=True)
        )
        tables += [
            ("DecodeError", kind, "keys not in deterministic order", envelope(kind, unsorted, key)),
            ("DecodeError", kind, "truncated", whole[:-1]),
            ("VerificationError", kind, "signed by another key", envelope(kind, payload, STRANGER)),
            ("VerificationError", kind, "signed for another purpose", envelope(other, payload, key)),
            ("VerificationError", kind, "one bit of the cluster's name flipped",
             flipped(whole, whole.index(b"flux-prod"))),
            ("VerificationError", kind, "one bit of the signature flipped", flipped(whole, len(whole) - 1)),
        ]  # fmt: skip
    return [
        {"kind": kind, "reason": reason, "error": error, "envelope": data}
        for error, kind, reason, data in tables
    ]


def bad_inserts(gain: Map) -> dict[str, Map]:
    """Inserts that no sheet may hold, by what is wrong with them."""
    return {
        **{f"insert without {name}": without(gain, name) for name in gain},
        "unknown point": {**gain, "Point": "kitchen"},
        "no source at the meters": {**gain, "Point": "meters", "Source": "", "Bus": ""},
        "bus at the meters": {**gain, "Point": "meters"},
        "monitor without a bus": {**gain, "Bus": ""},
        "illegal id": {**gain, "ID": "a.b"},
        "digest of 31 bytes": {**gain, "Digest": bytes(31)},
        "size of nothing": {**gain, "Size": 0},
        "size over 4 MiB": {**gain, "Size": (4 << 20) + 1},
        "parameter is an integer": {**gain, "Params": {"gain": 1}},
    }


def refused_bodies(made: Messages) -> list[Map]:
    """Bodies, as CBOR maps, that must not parse although the message around them is good."""
    bodies = {"renew request": made.renew["Body"], "renew answer": made.renewed["Body"],
              "sync request": made.sync["Body"], "sync answer": made.synced["Body"]}  # fmt: skip
    tables: dict[str, dict[str, Map]] = {
        body: {f"no {name}": without(fields, name) for name in fields} for body, fields in bodies.items()
    }
    for body in ("renew request", "renew answer", "sync request"):
        tables[body] |= {
            "empty chain": {**bodies[body], "Chain": []},
            "chain of four": {**bodies[body], "Chain": made.chain * 4},
            "chain of text": {**bodies[body], "Chain": ["certificate"]},
        }
    tables["sync request"]["command is a boolean"] = {**bodies["sync request"], "Command": True}
    tables["sync answer"]["wish is a number"] = {**bodies["sync answer"], "WantDenyList": 1}
    return [
        {"body": body, "reason": reason, "cbor": cbor(fields)}
        for body, table in tables.items()
        for reason, fields in table.items()
    ]
