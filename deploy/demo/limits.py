"""Every size, count, rate and time limit of the demo, in one frozen dataclass."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DemoLimits:
    """Limits of one demo run. Times are seconds unless the name says otherwise."""

    # --- processes -------------------------------------------------------------------------------
    command: float = 30.0  # one command of the CLI
    mixer_ready: float = 30.0
    rack_waiting: float = 30.0  # spawn of a rack until it waits for its enrollment
    first_frame: float = 30.0  # end of `admin enroll` until the first frame is here
    first_audio: float = 10.0  # a listener's lease until the first audio record is here
    rack_stop: float = 20.0  # more than a rack's own drain and audio stop
    mixer_stop: float = 20.0
    killed: float = 5.0  # a killed process is gone after this, or the kernel is in trouble
    exit_poll: float = 0.02
    log_tail_lines: int = 12

    # --- accounting ------------------------------------------------------------------------------
    live_settle: float = 10.0  # end of the racks until the last live record is here and verified
    lake_settle: float = 15.0  # end of the racks until the mixer has committed all they shipped
    settle_poll: float = 0.02
    lake_poll: float = 1.0  # while the bridge is shown
    lake_settle_poll: float = 0.1

    # --- capture device --------------------------------------------------------------------------
    device_probe: float = 15.0
    device_first_block: float = 2.0

    # --- screen ----------------------------------------------------------------------------------
    frames_per_second: float = 12.5
    plain_line_every: float = 2.0
    shown_channels: int = 2
    max_seconds: float = 86_400.0
    heartbeat: float = 1.0  # of the demo's racks, so that the journal's figures move


LIMITS = DemoLimits()
