"""The parsers under arbitrary bytes: nothing but ModuleError comes out, and work grows with the size, not its square.

Work is counted in lines of Python executed and calls made, never in time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from hashlib import sha256
from types import FrameType
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stagebox.errors import ModuleError
from stagebox.modules.limits import LIMITS
from stagebox.modules.params import read_params
from stagebox.modules.reading import read_interface
from stagebox.modules.signature_section import place, split_section
from stagebox.modules.statement import ClusterStatement, Statement
from stagebox.modules.verification import verify_vendor
from stagebox.modules.walker import PREAMBLE, custom_section, encode_u32, walk
from support.forging import accepted_at_rack, at_mixer, at_rack, cluster_signed, vendor_signed
from support.modules import VENDOR, countersigned_module, unsigned_module

FUZZ = settings(max_examples=1_500, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
NAMES = st.sampled_from(["", "note", "stagebox.params", "fluxrig.signature", "fluxrig.cluster.signature"])


def read_everything(data: bytes) -> None:
    """Do all that is done with a stranger's file, without a signature to stop it."""
    try:
        sections = walk(data)
    except ModuleError:
        return
    for read in (
        lambda: place(sections),
        lambda: read_interface(data, sections),
        lambda: read_params(data, sections),
    ):
        try:
            read()
        except ModuleError as refused:
            assert refused.code
    for section in sections:
        if section.name is not None:
            try:
                split_section(data, section)
            except ModuleError as refused:
                assert refused.code


@st.composite
def section(draw: st.DrawFn) -> bytes:
    """A section that is sound from outside, and anything within."""
    content = draw(st.binary(max_size=60))
    if draw(st.booleans()):
        return custom_section(draw(NAMES), content)
    return bytes((draw(st.integers(1, 13)),)) + encode_u32(len(content)) + content


@FUZZ
@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_refused_or_walked(data: bytes) -> None:
    read_everything(data)


@FUZZ
@given(st.binary(max_size=400))
def test_arbitrary_bytes_behind_the_preamble_are_refused_or_walked(data: bytes) -> None:
    read_everything(PREAMBLE + data)


@FUZZ
@given(st.lists(section(), max_size=12))
def test_arbitrary_sections_are_refused_or_read(sections: list[bytes]) -> None:
    read_everything(PREAMBLE + b"".join(sections))


@FUZZ
@given(st.integers(1, 13), st.binary(max_size=120))
def test_arbitrary_contents_of_a_section_are_refused_or_read(number: int, content: bytes) -> None:
    # With types to refer to, the readers of later sections come further.
    types = b"\x01\x08\x02\x60\x00\x00\x60\x01\x7f\x00" if number > 1 else b""
    read_everything(PREAMBLE + types + bytes((number,)) + encode_u32(len(content)) + content)


@FUZZ
@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused_as_a_statement(body: bytes) -> None:
    for decode in (Statement.decode, ClusterStatement.decode):
        with pytest.raises(ModuleError):
            decode(body)


@settings(FUZZ, max_examples=400)
@given(
    st.dictionaries(
        st.sampled_from(
            ["Version", "Name", "Limits", "Granted", "Covered", "Signer", "Capabilities", "Note"]
        ),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers(-(2**63), 2**64 - 1)
            | st.floats()
            | st.text()
            | st.binary(),
            lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
            max_leaves=12,
        ),
    )
)
def test_statements_with_anything_in_them_are_refused_or_kept(fields: dict[str, Any]) -> None:
    if set(fields) - {"Note"}:
        assert at_mixer(vendor_signed(PREFIX, **{**fields, "Issued": "never"})) in KNOWN
    assert at_rack(cluster_signed(SIGNED, **{**fields, "Serial": "none"})) in KNOWN


PREFIX = unsigned_module()
SIGNED = vendor_signed(PREFIX)
KNOWN = {"malformed", "bad_version", "unknown_capability", "not_canonical", "limit_not_allowed", "too_large"}


# --- linear time ------------------------------------------------------------------------------------------


def work(run: Callable[[], object]) -> int:
    """Return how many lines of Python and calls, also of C functions, ``run`` takes."""
    count = 0

    def line(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal count
        count += 1
        return line

    def call(frame: FrameType, event: str, arg: object) -> None:
        nonlocal count
        count += 1

    before = sys.gettrace(), sys.getprofile()
    sys.settrace(line)
    sys.setprofile(call)
    try:
        run()
    except ModuleError:
        pass
    finally:
        sys.settrace(before[0])
        sys.setprofile(before[1])
    return count


def read_all(data: bytes) -> None:
    sections = walk(data)
    read_params(data, sections)
    read_interface(data, sections)


def many_sections(count: int) -> bytes:
    return PREAMBLE + custom_section("note", b"") * count


def many_types(count: int) -> bytes:
    return with_items(1, count, b"\x60\x00\x00")


def long_types(count: int) -> bytes:
    return with_items(1, count, b"\x60\x64" + b"\x7f" * 100 + b"\x00")


def many_functions(count: int) -> bytes:
    return PREAMBLE + b"\x01\x04\x01\x60\x00\x00" + with_items(3, count, b"\x00")[8:]


def many_globals(count: int) -> bytes:
    return with_items(6, count, b"\x7f\x00\x41\x00\x0b")


def long_constants(count: int) -> bytes:
    return with_items(6, count, b"\x7f\x00" + b"\x41\x00\x6a" * 60 + b"\x0b")


def endless_constant(count: int) -> bytes:
    return with_items(6, 1, b"\x7f\x00" + b"\x6a" * count)


def many_exports(count: int) -> bytes:
    names = [f"e{number:06d}".encode() for number in range(count)]
    items = b"".join(b"\x07" + name + b"\x02\x00" for name in names)
    content = encode_u32(count) + items
    return PREAMBLE + b"\x05\x03\x01\x00\x01" + b"\x07" + encode_u32(len(content)) + content


def many_imports(count: int) -> bytes:
    return with_items(2, count, b"\x01m\x01n\x02\x00\x00")


def with_items(section: int, count: int, item: bytes) -> bytes:
    content = encode_u32(count) + item * count
    return PREAMBLE + bytes((section,)) + encode_u32(len(content)) + content


def one_large_section(count: int) -> bytes:
    return PREAMBLE + custom_section("note", bytes(count))


def padded_numbers(count: int) -> bytes:
    return with_items(3, 0, b"") + b"\x80" * count


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (many_sections, LIMITS.max_sections // 2),
        (many_types, 500),
        (long_types, 500),
        (many_functions, 500),
        (many_globals, 500),
        (long_constants, 100),
        (endless_constant, 5_000),
        (many_exports, 500),
        (many_imports, LIMITS.max_imports // 2),
        (one_large_section, 1 << 20),
        (padded_numbers, 1 << 20),
    ],
)
def test_twice_the_size_takes_at_most_twice_the_work(make: Callable[[int], bytes], count: int) -> None:
    single, double = make(count), make(2 * count)
    once, twice = work(lambda: read_all(single)), work(lambda: read_all(double))
    print(f"{make.__name__}: {len(single)} bytes {once}, {len(double)} bytes {twice}")
    assert once > 0
    assert twice <= 2.01 * once


def test_the_walk_takes_the_same_work_for_sections_of_any_size() -> None:
    # Both sizes are numbers of four bytes.
    small, large = one_large_section(1 << 21), one_large_section(LIMITS.max_module_bytes - 32)
    assert work(lambda: walk(large)) == work(lambda: walk(small))


def test_a_module_of_the_most_sections_is_walked_in_a_bounded_count_of_steps() -> None:
    data = many_sections(LIMITS.max_sections)
    assert work(lambda: walk(data)) < 100 * LIMITS.max_sections


def test_statements_of_twice_the_items_take_at_most_twice_the_work() -> None:
    once, twice = (vendor_signed(PREFIX, Note=[0] * count) for count in (200, 400))
    first = work(lambda: verify_vendor(once, VENDOR.trust, now_ns=0))
    second = work(lambda: verify_vendor(twice, VENDOR.trust, now_ns=0))
    assert 0 < second <= 2 * first


def test_each_byte_of_a_file_is_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: dict[str, int] = {}

    def counting(name: str, make: Callable[[], Any]) -> Callable[[], Any]:
        class Counting:
            def __init__(self) -> None:
                self._inner = make()

            def update(self, data: bytes) -> None:
                hashed[name] = hashed.get(name, 0) + len(data)
                self._inner.update(data)

            def digest(self) -> bytes:
                return bytes(self._inner.digest())

        return Counting

    data = countersigned_module()
    monkeypatch.setattr("stagebox.modules.verification.blake3", counting("blake3", blake3))
    monkeypatch.setattr("stagebox.modules.verification.sha256", counting("sha256", sha256))
    assert accepted_at_rack(data).data == data
    assert hashed == {"sha256": len(data), "blake3": len(data)}
