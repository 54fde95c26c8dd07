"""A rack's identity on disk under renewals, rekeys and reissues, with the power cut between any two file operations.

Whatever happens: the rack never holds an older passport than it held before, and always holds an identity that loads
and that the mixer admits.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from nacl.signing import SigningKey

from stagebox.passport import PassportStatus
from stagebox_rack.identity import staging
from stagebox_rack.identity.store import Held, IdentityStore, Issued
from stagebox_rack.limits import LIMITS
from stagebox_rack.state import RackIdentity
from support.issuer import Issuer

ISSUER = Issuer()


class PowerCut(BaseException):
    """The machine stops here; nothing after it runs, no clean-up either."""


class CutDisk(staging.Disk):
    """Lets ``left`` operations through; the next one is done or not, and then the power is gone."""

    def __init__(self, left: int, done: bool) -> None:
        self.left = left
        self.done = done

    def _count(self) -> bool:
        self.left -= 1
        return self.left < 0

    def make_dir(self, path: Path) -> None:
        self._do(super().make_dir, path)

    def write(self, path: Path, data: bytes, mode: int) -> None:
        if self._count():
            if self.done:
                path.write_bytes(data[: len(data) // 2])  # a name that came to be without its content
            raise PowerCut
        super().write(path, data, mode)

    def rename(self, source: Path, target: Path) -> None:
        self._do(super().rename, source, target)

    def remove(self, path: Path) -> None:
        self._do(super().remove, path)

    def remove_dir(self, path: Path) -> None:
        self._do(super().remove_dir, path)

    def _do(self, work: Callable[..., None], *arguments: Path) -> None:
        cut = self._count()
        if not cut or self.done:
            work(*arguments)
        if cut:
            raise PowerCut


def cuts(operations: int) -> st.SearchStrategy[tuple[int, bool] | None]:
    """Where the power is cut in something of so many operations, if it is."""
    return st.one_of(st.none(), st.tuples(st.integers(0, operations - 1), st.booleans()))


STAGING, PROMOTION, RECOVERY = cuts(8), cuts(4), cuts(4)


class StagingMachine(RuleBasedStateMachine):
    """The real code on a real directory; the mixer is its admission rule alone."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="staging-"))
        self.seen = 0
        self.current: tuple[int, str]
        self.pending: tuple[int, str] | None = None

    @initialize()
    def enroll(self) -> None:
        ISSUER.serial = 0
        self.store: IdentityStore = ISSUER.enroll(self.directory / "state")
        self.held: Held = self.store.open()
        self.current = self._proof(self.held.main)
        self.seen = 1

    def teardown(self) -> None:
        shutil.rmtree(self.directory)

    # --- what happens -----------------------------------------------------------------------------------

    @rule(rekey=st.booleans(), cut=STAGING)
    def renew(self, rekey: bool, cut: tuple[int, bool] | None) -> None:
        """The newest identity is renewed; the mixer has committed before the rack begins to write."""
        base = self.held.newest
        self._take(ISSUER.issue(SigningKey.generate() if rekey else base.key), cut)

    @rule(rekey=st.booleans(), cut=PROMOTION, again=RECOVERY)
    def renew_and_connect(
        self, rekey: bool, cut: tuple[int, bool] | None, again: tuple[int, bool] | None
    ) -> None:
        """The usual course of a renewal; the power may go while it is promoted, and while that is put right."""
        self.renew(rekey, None)
        self._connect(cut, again)

    @rule(status=st.sampled_from(PassportStatus), cut=STAGING)
    def reissue(self, status: PassportStatus, cut: tuple[int, bool] | None) -> None:
        """A command brings a passport for the identity that the mixer saw last."""
        self._take(ISSUER.issue(self.held.main.key, status=status), cut)

    @rule(cut=STAGING)
    def renew_by_the_operator(self, cut: tuple[int, bool] | None) -> None:
        """The operator's command brings a certificate for the passport held: same serial, same secret."""
        base = self.held.newest
        chain = ISSUER.chain(base.public)
        self._stage(Issued(base.passport, base.flux, base.key, chain), cut)

    @rule(cut=PROMOTION, again=RECOVERY)
    def connect(self, cut: tuple[int, bool] | None, again: tuple[int, bool] | None) -> None:
        """Staged first, then main; what is admitted from a slot is promoted."""
        self._connect(cut, again)

    def _connect(self, cut: tuple[int, bool] | None, again: tuple[int, bool] | None) -> None:
        identity = next((held for held in self.held.all if self._admitted(held)), None)
        assert identity is not None, "no identity held is admitted"
        if self.pending == self._proof(identity):
            self.current, self.pending = self.pending, None
        if identity.slot is not None:
            self._run(cut, lambda store: store.promote(identity), again)

    @precondition(lambda self: self.pending is not None)
    @rule()
    def the_mixer_forgets_the_pending_issue(self) -> None:
        """It was put back from a backup; the rack's old identity is what it knows."""
        if self._admitted(self.held.main) and self._proof(self.held.main) == self.current:
            self.pending = None

    # --- how it is done ---------------------------------------------------------------------------------

    def _take(self, issued: Issued, cut: tuple[int, bool] | None) -> None:
        self.pending = (issued.passport.serial, issued.passport.secret)
        self._stage(issued, cut)

    def _stage(self, issued: Issued, cut: tuple[int, bool] | None) -> None:
        if self._run(cut, lambda store: store.stage(self.held, issued)):
            self.seen = max(self.seen, issued.passport.serial)

    def _run(
        self,
        cut: tuple[int, bool] | None,
        work: Callable[[IdentityStore], object],
        again: tuple[int, bool] | None = None,
    ) -> bool:
        """Run with the power cut somewhere, then start again; returns whether it ran to its end."""
        ran = True
        disk = CutDisk(*cut) if cut is not None else staging.DISK
        try:
            work(IdentityStore(self.store.paths, self.store.machine_id, disk))
        except PowerCut:
            ran = False
            if again is not None:
                with contextlib.suppress(PowerCut):
                    IdentityStore(self.store.paths, self.store.machine_id, CutDisk(*again)).open()
        self.held = self.store.open()
        return ran

    def _proof(self, identity: RackIdentity) -> tuple[int, str]:
        return identity.passport.serial, identity.passport.secret

    def _admitted(self, identity: RackIdentity) -> bool:
        return self._proof(identity) in (self.current, self.pending)

    # --- what must hold ---------------------------------------------------------------------------------

    @invariant()
    def the_newest_passport_never_becomes_older(self) -> None:
        assert self.held.newest.passport.serial >= self.seen
        self.seen = self.held.newest.passport.serial

    @invariant()
    def an_identity_is_held_that_the_mixer_admits(self) -> None:
        assert any(self._admitted(identity) for identity in self.held.all)
        for identity in self.held.all:
            identity.tls_context()

    @invariant()
    def what_stands_is_what_waits_and_no_leftovers(self) -> None:
        paths = self.store.paths
        found = sorted(paths.next.iterdir()) if paths.next.is_dir() else []
        assert len(found) == len(self.held.waiting) <= LIMITS.staged_identities


TestStaging = StagingMachine.TestCase
TestStaging.settings = settings(max_examples=50, stateful_step_count=12, deadline=None)


def test_a_power_cut_before_the_oldest_goes_leaves_no_more_than_may_wait() -> None:
    machine = StagingMachine()
    try:
        machine.enroll()
        for _ in range(LIMITS.staged_identities):
            machine.reissue(status=PassportStatus.PENDING, cut=None)
        machine.reissue(status=PassportStatus.PENDING, cut=(6, False))
        machine.what_stands_is_what_waits_and_no_leftovers()
        machine.an_identity_is_held_that_the_mixer_admits()
    finally:
        machine.teardown()
