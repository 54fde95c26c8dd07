"""100,000 mutations of valid modules, and not one of them accepted.

Half are of bytes, half know what a module is made of: sections, LEB128, CBOR, and the parts of other valid modules.
Hypothesis draws the seeds, and each makes a hundred mutants: a number alone is drawn fast, but does not shrink. Of a
thousand more it draws every part itself, so that one that is accepted is shrunk to what matters. It is told to
draw the same again in every run.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, assume, find, given, settings
from hypothesis import strategies as st

from stagebox.errors import ModuleError
from stagebox.modules.capabilities import Capability
from stagebox.modules.verification import verify_countersigned, verify_vendor
from stagebox.modules.walker import Section, custom_section, walk
from support.forging import padded_u32
from support.modules import (
    CLUSTER,
    CLUSTER_PUBLIC,
    DAY,
    NOW,
    VENDOR,
    countersigned_module,
    gain_wat,
    make_vendor,
    signed_module,
    unsigned_module,
)

EXAMPLES, IN_AN_EXAMPLE = 500, 100  # at each end
DRAWN_WHOLE = 500  # at each end
DRAWN = settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
SEEDS = st.integers(0, 2**64 - 1)
INTERESTING = (0x00, 0x01, 0x40, 0x58, 0x7F, 0x80, 0x82, 0xA0, 0xBF, 0xFF)


@dataclass(frozen=True)
class Target:
    """One end: how it verifies, and the modules that it would accept."""

    verify: Callable[[bytes], object]
    valid: tuple[bytes, ...]


def at_the_mixer() -> Target:
    other = unsigned_module(gain_wat(process="(drop (i32.const 1))"))
    valid = (
        signed_module(),
        signed_module(version="1.0.1"),
        signed_module(name="limiter", capabilities=(Capability.AUDIO, Capability.LOG)),
        signed_module(other),
        signed_module(issued=NOW - 2 * DAY),
    )
    return Target(lambda data: verify_vendor(data, VENDOR.trust, now_ns=NOW), valid)


def at_the_rack() -> Target:
    signed = (*at_the_mixer().valid, signed_module(vendor=make_vendor(2, owner="other-works")))
    valid = (*(countersigned_module(data) for data in signed), countersigned_module(serial=2))
    return Target(
        lambda data: verify_countersigned(data, cluster=CLUSTER, cluster_public=CLUSTER_PUBLIC, now_ns=NOW),
        valid,
    )


# --- of bytes ---------------------------------------------------------------------------------------------


def flip(data: bytes, _: Target, draw: random.Random) -> bytes:
    at = draw.randrange(len(data))
    return data[:at] + bytes((data[at] ^ 1 << draw.randrange(8),)) + data[at + 1 :]


def overwrite(data: bytes, _: Target, draw: random.Random) -> bytes:
    at = draw.randrange(len(data))
    new = bytes(
        draw.choice((draw.choice(INTERESTING), draw.randrange(256))) for _ in range(draw.randint(1, 8))
    )
    return data[:at] + new + data[at + len(new) :]


def insert(data: bytes, _: Target, draw: random.Random) -> bytes:
    at = draw.randint(0, len(data))
    return data[:at] + draw.randbytes(draw.randint(1, 8)) + data[at:]


def delete(data: bytes, _: Target, draw: random.Random) -> bytes:
    at = draw.randrange(len(data))
    return data[:at] + data[at + draw.randint(1, 16) :]


def truncate(data: bytes, _: Target, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data))]


def repeat(data: bytes, _: Target, draw: random.Random) -> bytes:
    start = draw.randrange(len(data))
    end = draw.randint(start, len(data))
    return data[:end] + data[start:end] + data[end:]


def exchange(data: bytes, _: Target, draw: random.Random) -> bytes:
    a, b, c, d = sorted(draw.randint(0, len(data)) for _ in range(4))
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def splice(data: bytes, target: Target, draw: random.Random) -> bytes:
    """The beginning of one module and the end of another, at the same or at another place."""
    other = draw.choice(target.valid)
    at = draw.randrange(len(data))
    return data[:at] + other[draw.choice((at, draw.randrange(len(other)))) :]


# --- of what a module is made of --------------------------------------------------------------------------


def parts(data: bytes) -> list[bytes]:
    return [data[section.start : section.end] for section in walk(data)]


def joined(listed: list[bytes]) -> bytes:
    return b"\0asm\1\0\0\0" + b"".join(listed)


def move_section(data: bytes, _: Target, draw: random.Random) -> bytes:
    listed = parts(data)
    listed.insert(draw.randrange(len(listed)), listed.pop(draw.randrange(len(listed))))
    return joined(listed)


def drop_section(data: bytes, _: Target, draw: random.Random) -> bytes:
    listed = parts(data)
    del listed[draw.randrange(len(listed))]
    return joined(listed)


def repeat_section(data: bytes, _: Target, draw: random.Random) -> bytes:
    listed = parts(data)
    listed.insert(draw.randint(0, len(listed)), draw.choice(listed))
    return joined(listed)


def add_section(data: bytes, _: Target, draw: random.Random) -> bytes:
    name = draw.choice(
        ("", "note", "fluxrig.", "fluxrig.signature", "fluxrig.cluster.signature", "stagebox.params")
    )
    listed = parts(data)
    listed.insert(draw.randint(0, len(listed)), custom_section(name, draw.randbytes(draw.randint(0, 12))))
    return joined(listed)


def graft_section(data: bytes, target: Target, draw: random.Random) -> bytes:
    """A section of another valid module takes the place of one, or of the one at the same place."""
    listed, others = parts(data), parts(draw.choice(target.valid))
    at = draw.randrange(len(listed))
    listed[at] = draw.choice((others[min(at, len(others) - 1)], draw.choice(others)))
    return joined(listed)


def pad_size(data: bytes, _: Target, draw: random.Random) -> bytes:
    """The size of a section in more bytes than it needs."""
    section: Section = draw.choice(walk(data))
    size = padded_u32(section.end - section.payload, draw.randint(section.payload - section.start, 5))
    return data[: section.start + 1] + size + data[section.payload :]


def change_size(data: bytes, _: Target, draw: random.Random) -> bytes:
    section: Section = draw.choice(walk(data))
    size = max(0, section.end - section.payload + draw.choice((-2, -1, 1, 2, draw.randint(-300, 300))))
    return data[: section.start + 1] + padded_u32(size, draw.randint(2, 5)) + data[section.payload :]


def rename(data: bytes, _: Target, draw: random.Random) -> bytes:
    section = draw.choice([section for section in walk(data) if section.name is not None])
    name = draw.choice(("note", "fluxrig.signature", "fluxrig.cluster.signature", f"{section.name} "))
    renamed = custom_section(name, data[section.content : section.end])
    return data[: section.start] + renamed + data[section.end :]


def respell(data: bytes, _: Target, draw: random.Random) -> bytes:
    """A CBOR head of a statement, or what looks like one, in more bytes than it needs; the sizes are made right."""
    section = draw.choice([section for section in walk(data) if str(section.name).startswith("fluxrig.")])
    content = data[section.content : section.end]
    at = draw.choice([place for place, byte in enumerate(content[:-64]) if byte & 0x1F < 24])
    head = bytes((content[at] & 0xE0 | 24, content[at] & 0x1F))
    spelled = custom_section(str(section.name), content[:at] + head + content[at + 1 :])
    return data[: section.start] + spelled + data[section.end :]


def change_content(data: bytes, target: Target, draw: random.Random) -> bytes:
    """A mutation of bytes within one custom section, whose sizes are made right again."""
    section = draw.choice([section for section in walk(data) if section.name is not None])
    content = data[section.content : section.end]
    for _ in range(draw.randint(1, 3)):
        content = draw.choice(OF_BYTES[:-1])(content or b"\0", target, draw)
    changed = custom_section(str(section.name), content)
    return data[: section.start] + changed + data[section.end :]


def swap_signature(data: bytes, target: Target, draw: random.Random) -> bytes:
    """The 64 bytes of a signature, or the body before them, from another valid module."""
    other = draw.choice(target.valid)
    mine, theirs = walk(data)[-1], walk(other)[-1]
    cut = draw.choice((64, 66, 32))
    content = data[mine.content : mine.end][:-cut] + other[theirs.content : theirs.end][-cut:]
    return data[: mine.start] + custom_section(str(mine.name), content)


Mutation = Callable[[bytes, Target, random.Random], bytes]
OF_BYTES: list[Mutation] = [flip, overwrite, insert, delete, truncate, repeat, exchange, splice]
OF_STRUCTURE: list[Mutation] = [
    move_section,
    drop_section,
    repeat_section,
    add_section,
    graft_section,
    pad_size,
    change_size,
    rename,
    respell,
    change_content,
    swap_signature,
]


MUTATIONS = [*OF_BYTES, *OF_STRUCTURE]


@dataclass(frozen=True)
class Mutant:
    """What ``mutation`` made of the valid module of that number."""

    original: int
    mutation: str
    data: bytes


@dataclass
class Tally:
    """What became of the mutants: those that were accepted, and how many were refused for each code."""

    accepted: list[Mutant] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)

    def attempt(self, target: Target, mutant: Mutant) -> bool:
        """Verify one; return whether it was accepted."""
        try:
            target.verify(mutant.data)
        except ModuleError as refused:
            self.codes[refused.code] += 1
            return False
        self.accepted.append(mutant)
        return True


def drawn(target: Target, draw: random.Random) -> Mutant:
    """Return one mutant; of bytes and of structure are as likely."""
    original = draw.randrange(len(target.valid))
    mutation = draw.choice(draw.choice((OF_BYTES, OF_STRUCTURE)))
    return Mutant(original, mutation.__name__, mutation(target.valid[original], target, draw))


def batch(target: Target, seed: int, tally: Tally) -> list[Mutant]:
    """Try as many mutants as one example has; return those that were accepted."""
    draw, before, tried = random.Random(seed), len(tally.accepted), 0
    while tried < IN_AN_EXAMPLE:
        mutant = drawn(target, draw)
        if mutant.data in target.valid:
            continue  # a mutation that changed nothing, or made another of the valid ones
        tally.attempt(target, mutant)
        tried += 1
    return tally.accepted[before:]


@st.composite
def mutants(draw: st.DrawFn, target: Target) -> Mutant:
    """One mutant of which Hypothesis draws all: the original, the kind, each place and each byte. So it shrinks."""
    original = draw(st.integers(0, len(target.valid) - 1))
    mutation = draw(st.sampled_from(MUTATIONS))
    data = mutation(target.valid[original], target, draw(st.randoms(use_true_random=False)))
    assume(data not in target.valid)
    return Mutant(original, mutation.__name__, data)


@pytest.mark.parametrize("end", [at_the_mixer, at_the_rack])
def test_no_mutation_of_a_valid_module_is_accepted(end: Callable[[], Target]) -> None:
    target, tally = end(), Tally()
    for data in target.valid:
        target.verify(data)

    @settings(DRAWN, max_examples=EXAMPLES)
    @given(SEEDS)
    def attack(seed: int) -> None:
        assert not batch(target, seed, tally)

    attack()
    tried = tally.codes.total()
    print(f"{end.__name__}: {tried} refused, {len(tally.accepted)} accepted: {dict(tally.codes)}")
    assert not tally.accepted
    assert tried == EXAMPLES * IN_AN_EXAMPLE == 50_000
    assert len(tally.codes) > 15


@pytest.mark.parametrize("end", [at_the_mixer, at_the_rack])
def test_no_mutation_that_hypothesis_draws_is_accepted(end: Callable[[], Target]) -> None:
    target, tally = end(), Tally()

    @settings(DRAWN, max_examples=DRAWN_WHOLE)
    @given(mutants(target))
    def attack(mutant: Mutant) -> None:
        assert not tally.attempt(target, mutant)

    attack()
    print(f"{end.__name__}: {tally.codes.total()} refused: {dict(tally.codes)}")
    assert tally.codes.total() == DRAWN_WHOLE
    assert len(tally.codes) > 10


LEFT_OUT = ["_check_signature", "_check_coverage"]


@pytest.mark.parametrize("check", LEFT_OUT)
@pytest.mark.parametrize("end", [at_the_mixer, at_the_rack])
def test_the_mutations_find_a_verifier_that_leaves_a_check_out(
    end: Callable[[], Target], check: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"stagebox.modules.verification.{check}", lambda *_: None)
    target, tally = end(), Tally()

    @settings(DRAWN, max_examples=20)
    @given(SEEDS)
    def attack(seed: int) -> None:
        batch(target, seed, tally)

    attack()
    assert len(tally.accepted) > 20


@pytest.mark.parametrize("check", LEFT_OUT)
@pytest.mark.parametrize("end", [at_the_mixer, at_the_rack])
def test_hypothesis_finds_it_and_shrinks_it_to_the_first_module(
    end: Callable[[], Target], check: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"stagebox.modules.verification.{check}", lambda *_: None)
    target, tally = end(), Tally()
    found = find(
        mutants(target),
        lambda mutant: tally.attempt(target, mutant),
        settings=settings(DRAWN, max_examples=DRAWN_WHOLE),
        random=random.Random(6),
    )
    print(f"{end.__name__}, {check}: {found.mutation} of module {found.original}")
    assert found in tally.accepted
    assert found.original == 0


def test_no_flipped_bit_of_a_whole_module_is_accepted() -> None:
    target = at_the_rack()
    data = target.valid[0]
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ModuleError):
            target.verify(bytes(changed))


def test_no_beginning_of_a_module_is_accepted() -> None:
    target = at_the_rack()
    for size in range(len(target.valid[0])):
        with pytest.raises(ModuleError):
            target.verify(target.valid[0][:size])
