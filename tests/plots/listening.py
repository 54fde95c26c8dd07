"""How long the jitter buffer should be, on networks that are imagined: their delays are drawn, the buffer is real."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from plots.figure import figure
from stagebox.listening.jitter import JitterBuffer, Lost, Packet

PACKET_S = 0.02
PACKETS = 6_000
NETWORKS: dict[str, Callable[[random.Random], float]] = {
    "wired: 1 ms on average": lambda chance: chance.expovariate(1 / 0.001),
    "Wi-Fi: 8 ms, one packet in 50 held up by 60": lambda chance: (
        chance.expovariate(1 / 0.008) + (chance.random() < 0.02) * chance.expovariate(1 / 0.06)
    ),
    "mobile: 25 ms, one in 30 held up by 150": lambda chance: (
        chance.expovariate(1 / 0.025) + (chance.random() < 0.033) * chance.expovariate(1 / 0.15)
    ),
}


def concealed(latency_s: float, delay: Callable[[random.Random], float]) -> float:
    """Per cent of the packets that were not there in time. Packets stay in order, as on one connection."""
    chance, buffer = random.Random(4), JitterBuffer(latency_s)
    lost, arrived = 0, 0.0
    for seq in range(1, PACKETS + 1):
        arrived = max(arrived, seq * PACKET_S + delay(chance))
        while (due := buffer.next_due()) is not None and due <= arrived:
            lost += isinstance(buffer.pop(due), Lost)
        buffer.push(Packet(bytes(16), seq, (seq - 1) * 960, 960, 2, 0, b""), arrived)
    return 100 * lost / PACKETS


def buffer_lengths(path: Path) -> None:
    """What is concealed, by the length of the buffer."""
    lengths = [5, 10, 20, 30, 40, 60, 80, 100, 150, 200, 300, 400, 600, 800]
    with figure(path, "--latency, ms", "concealed, % of the packets") as axes:
        for name, delay in NETWORKS.items():
            shares = [concealed(ms / 1000, delay) for ms in lengths]
            axes.plot(lengths, [max(share, 0.01) for share in shares], "o-", markersize=3, label=name)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_ylim(0.01, 100)
        axes.axvline(60, color="0.6", linestyle=":", label="default")
        axes.legend(loc="upper right")
