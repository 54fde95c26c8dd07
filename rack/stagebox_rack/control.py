"""What the mixer and the rack say to each other besides records: commands, renewal, reports and the deny list."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any

from stagebox import subjects
from stagebox.bus import BusClient
from stagebox.bus.subscription import Subscription
from stagebox.control.command import Command, CommandVerb
from stagebox_rack.commands.mark import FILE_NAME as COMMAND_MARK
from stagebox_rack.commands.service import CommandRefused, CommandService, Handler
from stagebox_rack.identity.denied import DenyListWitness
from stagebox_rack.identity.takeover import Takeover
from stagebox_rack.limits import LIMITS
from stagebox_rack.publisher import Publisher
from stagebox_rack.renewal import exchange
from stagebox_rack.renewal.service import RenewalPolicy, RenewalService
from stagebox_rack.renewal.sync import SyncService
from stagebox_rack.settings import RackSettings
from stagebox_rack.state import StatePaths


class Control:
    """The control services of one running rack, wired; ``witness`` has been loaded."""

    def __init__(
        self,
        *,
        bus: BusClient,
        takeover: Takeover,
        paths: StatePaths,
        settings: RackSettings,
        boot: bytes,
        publisher: Publisher,
        witness: DenyListWitness,
        say_status: Callable[[], None],
        handlers: Mapping[str, Handler],
    ) -> None:
        self._bus = bus
        self._takeover = takeover
        self._say_status = say_status
        passport = takeover.held.main.passport
        self._witness = witness
        self._commands = CommandService(
            bus=bus,
            path=paths.directory / COMMAND_MARK,
            cluster=passport.cluster_id,
            cluster_public=passport.cluster_public,
            rack=passport.name,
            boot=boot,
            key=lambda: takeover.credentials.active.key,
            handlers={
                CommandVerb.PASSPORT: self._obey_passport,
                CommandVerb.STATUS: self._obey_status,
                **handlers,
            },
            publish_ack=publisher.ack,
            event=publisher.event,
            alert=publisher.alert,
        )
        policy = RenewalPolicy.of(settings)
        self._renewal = RenewalService(
            takeover, bus, paths, policy, event=publisher.event, alert=publisher.alert
        )
        self._sync = SyncService(
            bus=bus,
            takeover=takeover,
            witness=self._witness,
            commands=self._commands,
            renewal=self._renewal,
            managed_by=policy.managed_by,
        )
        self._denied: Subscription | None = None

    async def start(self) -> None:
        """Begin to hear commands and deny lists; a mixer of before those, which refuses them, stops nothing.

        Raises:
            BusError: the bus client is closed.
        """
        await self._commands.start()
        self._denied = await self._bus.subscribe(
            subjects.DENY_LIST, max_messages=LIMITS.deny_lists_pending, lasting=True
        )
        self._takeover.begin()
        if self._bus.connected:
            self._sync.connected()

    async def stop(self) -> None:
        """Finish the command under way and move no identity any more."""
        await self._commands.stop()
        await self._takeover.close()

    def work(self) -> Iterator[tuple[str, Coroutine[Any, Any, None]]]:
        """Yield the tasks to run, by name."""
        if self._denied is not None:
            yield "deny-lists", self._sync.hear(self._denied)
        yield "sync", self._sync.run()
        yield "renewal", self._renewal.run()
        yield "identity-watch", self._takeover.watch()

    def healthy(self) -> bool:
        """Whether commands are still obeyed; the other work is the owner's to watch."""
        return self._commands.running

    def connected(self) -> None:
        """The bus is up (again)."""
        self._sync.connected()

    def renewal_facts(self) -> dict[str, Any]:
        """Return what a heartbeat says of renewal."""
        return self._renewal.facts()

    async def _obey_passport(self, command: Command) -> None:
        data = command.args.get("Passport")
        if type(data) is not bytes:
            raise CommandRefused("malformed", "the command carries no passport")
        await self._takeover.take(
            lambda held: exchange.accept_passport(data, held=held, machine_id=self._takeover.machine_id)
        )

    async def _obey_status(self, _command: Command) -> None:
        self._say_status()
