"""The account in words, for people."""

from __future__ import annotations

from typing import Any

from demo.account import Account


def words(account: Account) -> list[str]:
    """Return the account as lines."""
    figures = account.to_json()
    wal, transport = figures["wal"], figures["transport"]
    lines = [f"{figures['racks']} racks ran for {account.seconds:.1f} s with {_sources(figures)}."]
    for kind in ("meter", "audio"):
        live = figures[kind]
        lines.append(
            f"{kind:<8} {_n(live['published'])} records published, {_n(live['received'])} received, "
            f"{_n(live['verified'])} verified"
        )
    lines.append(
        f"journal  {_n(wal['records'])} records in {_n(wal['segments'])} sealed segments "
        f"({'verified' if wal['verified'] else 'NOT VERIFIED'}), {_n(wal['committed'])} committed by the mixer, "
        f"{_n(wal['lost'])} lost"
    )
    lines.append(f"snake    {_transport(transport)}")
    lines.append(
        f"times    mixer ready in {figures['startup_ms']} ms, "
        f"enrollment to first meter frame {figures['enroll_to_first_frame_ms']} ms"
    )
    if figures["ok"]:
        lines.append("Nothing was lost and everything verified.")
    return lines


def _sources(figures: dict[str, Any]) -> str:
    return " and ".join(dict.fromkeys(figures["source"].values()))


def _transport(facts: dict[str, Any] | None) -> str:
    if facts is None:
        return "the racks do not agree on what they negotiated"
    sent = "with" if facts["client_certificate"] is True else "WITHOUT"
    return f"{facts['tls']} {facts['cipher']} {sent} a client certificate"


def _n(count: int | None) -> str:
    return "an unknown number of" if count is None else str(count)
