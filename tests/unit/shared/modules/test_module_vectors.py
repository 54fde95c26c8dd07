"""The published vectors of signed modules: our code makes, accepts and refuses exactly them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nacl.signing import SigningKey

from stagebox import envelope
from stagebox.errors import ModuleError
from stagebox.modules.interface import check_interface, read_interface
from stagebox.modules.params import encode_params
from stagebox.modules.signature_section import place, split_section
from stagebox.modules.signing import countersign, sign
from stagebox.modules.statement import key_id
from stagebox.modules.vendor_root import VendorRoots, parse
from stagebox.modules.verification import Countersigned, Signed, verify_countersigned, verify_vendor
from stagebox.modules.walker import walk

TESTS = Path(__file__).parents[3]
VECTORS: dict[str, Any] = json.loads((TESTS / "vectors" / "module-signature.json").read_text())
REFERENCE = TESTS.parent / "docs" / "reference" / "module-signature.md"
KEYS = {name: SigningKey(bytes.fromhex(key["seed"])) for name, key in VECTORS["keys"].items()}
CLUSTER_PUBLIC = bytes.fromhex(VECTORS["keys"]["cluster"]["public"])
ROOT = parse(VECTORS["root"], "the root of the vectors")


def by(key: str) -> Callable[[dict[str, Any]], str]:
    return lambda vector: str(vector[key])


def at_import(data: bytes) -> Signed:
    return verify_vendor(data, VendorRoots([ROOT]), now_ns=VECTORS["now"], cluster_public=CLUSTER_PUBLIC)


def at_rack(data: bytes) -> Countersigned:
    return verify_countersigned(
        data, cluster=VECTORS["cluster_id"], cluster_public=CLUSTER_PUBLIC, now_ns=VECTORS["now"]
    )


def hexed(value: Any) -> Any:
    """Return a decoded body as the vectors show it."""
    match value:
        case bytes():
            return value.hex()
        case dict():
            return {key: hexed(item) for key, item in value.items()}
    return value


@pytest.mark.parametrize("name", list(KEYS))
def test_keys_have_the_published_ids(name: str) -> None:
    public = bytes(KEYS[name].verify_key)
    assert public.hex() == VECTORS["keys"][name]["public"]
    assert key_id(public).hex() == VECTORS["keys"][name]["key_id"]


def test_the_domains_are_the_published_ones() -> None:
    assert envelope.DOMAIN_MODULE_VENDOR.hex() == VECTORS["domains"]["vendor"]
    assert envelope.DOMAIN_MODULE_CLUSTER.hex() == VECTORS["domains"]["cluster"]


def test_the_root_is_written_as_published() -> None:
    assert ROOT.render() == VECTORS["root"]
    assert ROOT.public.hex() == VECTORS["keys"]["vendor"]["public"]


def test_the_sections_are_found_where_they_are_published() -> None:
    sections = walk(bytes.fromhex(VECTORS["cluster"][0]["module"]))
    found = [
        {"id": part.id, "start": part.start, "payload": part.payload, "end": part.end}
        | ({} if part.name is None else {"name": part.name})
        for part in sections
    ]
    assert found == VECTORS["sections"]


def test_the_parameters_are_the_published_ones() -> None:
    unsigned = bytes.fromhex(VECTORS["unsigned"])
    params = at_rack(bytes.fromhex(VECTORS["cluster"][0]["module"])).params
    assert [param.wire() for param in params] == VECTORS["params"]
    assert unsigned.endswith(encode_params(params))


def test_the_published_module_has_the_interface_it_needs() -> None:
    found = at_rack(bytes.fromhex(VECTORS["cluster"][0]["module"]))
    interface = read_interface(found.data, found.sections)
    check_interface(interface, found.cluster.granted, found.cluster.limits, found.params)


@pytest.mark.parametrize("vector", VECTORS["vendor"], ids=by("name"))
def test_a_published_signed_module_is_accepted(vector: dict[str, Any]) -> None:
    found = at_import(bytes.fromhex(vector["module"]))
    assert hexed(found.statement.wire()) == vector["fields"]
    assert found.statement.encode().hex() == vector["body"]
    assert found.digest.hex() == vector["sha256"]
    section = place(found.sections).vendor
    assert section is not None
    assert [part.hex() for part in split_section(found.data, section)] == [
        vector["body"],
        vector["signature"],
    ]
    assert found.data[section.start :].hex() == vector["section"]


@pytest.mark.parametrize("vector", VECTORS["cluster"], ids=by("name"))
def test_a_published_countersigned_module_is_accepted(vector: dict[str, Any]) -> None:
    found = at_rack(bytes.fromhex(vector["module"]))
    assert found.cluster.encode().hex() == vector["body"]
    assert found.digest.hex() == vector["sha256"]
    section = place(found.sections).cluster
    assert section is not None
    assert [part.hex() for part in split_section(found.data, section)] == [
        vector["body"],
        vector["signature"],
    ]
    assert (found.cluster.serial, found.cluster.limits.wire()) == (
        vector["fields"]["Serial"], vector["fields"]["Limits"],
    )  # fmt: skip


def test_the_published_signed_module_is_made_to_the_byte() -> None:
    said = at_import(bytes.fromhex(VECTORS["vendor"][0]["module"])).statement
    made = sign(
        bytes.fromhex(VECTORS["unsigned"]),
        key=KEYS["vendor"],
        signer=said.signer,
        name=said.name,
        version=said.version,
        capabilities=said.capabilities,
        issued=said.issued,
        expires=said.expires,
    )
    assert made.hex() == VECTORS["vendor"][0]["module"]


def test_the_published_countersigned_module_is_made_to_the_byte() -> None:
    said = at_rack(bytes.fromhex(VECTORS["cluster"][0]["module"])).cluster
    made = countersign(
        bytes.fromhex(VECTORS["vendor"][0]["module"]),
        key=KEYS["cluster"],
        cluster=said.cluster,
        granted=said.granted,
        limits=said.limits,
        serial=said.serial,
        issued=said.statement.issued,
        expires=said.statement.expires,
    )
    assert made.hex() == VECTORS["cluster"][0]["module"]


@pytest.mark.parametrize("vector", VECTORS["refused_at_import"], ids=by("reason"))
def test_a_published_bad_module_is_not_imported(vector: dict[str, Any]) -> None:
    with pytest.raises(ModuleError) as refused:
        at_import(bytes.fromhex(vector["module"]))
    assert refused.value.code == vector["code"]


@pytest.mark.parametrize("vector", VECTORS["refused_at_rack"], ids=by("reason"))
def test_a_published_bad_module_is_not_run(vector: dict[str, Any]) -> None:
    with pytest.raises(ModuleError) as refused:
        at_rack(bytes.fromhex(vector["module"]))
    assert refused.value.code == vector["code"]


def test_every_code_is_documented() -> None:
    codes = {vector["code"] for name in ("import", "rack") for vector in VECTORS[f"refused_at_{name}"]}
    for path in (TESTS.parent / "shared" / "stagebox" / "modules").glob("*.py"):
        codes |= set(re.findall(r'ModuleError\(\s*"([a-z0-9_]+)"', path.read_text()))
    table = REFERENCE.read_text().split("\n## Codes\n")[1].split("\n## ")[0]
    assert codes == set(re.findall(r"`([a-z0-9_]+)`", table))
