"""Every size, count, rate and time limit of the rack, in one frozen dataclass.

Rules: one named field a limit, with its unit in the name or in the comment beside it; sections by
concern; nothing here depends on the rest of the package.
"""

from __future__ import annotations

from dataclasses import dataclass

from stagebox.modules.limits import LIMITS as FORMAT


@dataclass(frozen=True)
class RackLimits:
    """Limits of one rack process. Times are seconds unless the name says otherwise."""

    # --- audio: sources -----------------------------------------------------------------------
    audio_sources: int = 16
    audio_channels: int = 64
    audio_rates: tuple[int, ...] = (44_100, 48_000, 88_200, 96_000, 176_400, 192_000)  # Hz
    audio_block_ms: int = 10  # one capture block; 10 ms is whole frames at every rate above
    audio_ring_seconds: float = 4.0
    audio_ring_min_block_frames: int = 64  # smallest callback block the ring keeps full depth for
    audio_read_timeout: float = 0.25  # how long a consumer waits before it looks at the source's state
    audio_stop_timeout: float = 5.0
    audio_tone_min_hz: float = 0.1
    audio_tone_min_dbfs: float = -150.0
    audio_tone_max_dbfs: float = 0.0
    audio_source_spec_chars: int = 4096

    # --- audio: channel maps -------------------------------------------------------------------
    channel_gain_min_db: float = -60.0
    channel_gain_max_db: float = 40.0

    # --- audio: pacing of file and tone sources ------------------------------------------------
    audio_pace_max_lag: float = 1.0  # further behind than this (suspend, starvation) becomes a gap

    # --- audio: devices ------------------------------------------------------------------------
    audio_device_latency_ms: int = 30  # asked of the driver: less wakes more often and overflows sooner
    audio_device_latency_min_ms: int = 5
    audio_device_latency_max_ms: int = 500
    audio_device_silence: float = 2.0  # no callback for this long is a lost device
    audio_device_poll: float = 0.25
    audio_device_time_max_age: float = 2.0  # an ADC time older than this is not believed
    audio_clock_slew_ppm: int = 500  # how much slower than nominal a converter may run and be followed
    audio_clock_step: float = 0.05  # the wall clock moved by more than this between two blocks was stepped
    audio_reopen_first: float = 0.25
    audio_reopen_factor: float = 2.0
    audio_reopen_max: float = 10.0

    # --- audio: meters and monitor -------------------------------------------------------------
    meter_rate_hz: int = 20
    meter_rate_max_hz: int = 50
    meter_hold: float = 2.0  # a sample peak stays this long, then falls to what is there
    meter_momentary_ms: int = 400
    meter_short_term_ms: int = 3_000
    meter_gating_ms: int = 100  # between two blocks of integrated loudness and of loudness range
    meter_filter_block_min: int = 48  # samples per K-weighting block: near the cost minimum
    meter_filter_block_max: int = 64
    hum_prominence_db: float = 15.0  # how far lines of the mains stand above what is beside them
    meter_correlation: float = 0.3  # time constant of the phase correlation
    sample_limit: float = 1e5  # +100 dBFS: a float sample beyond it is taken for a fault of the source
    nonfinite_recovery: float = 1.0  # clean audio for this long ends a NaN/infinity condition
    leases_per_bus: int = 32
    lease_max: float = 120.0  # seconds; a listener that vanished is forgotten by then
    lease_poll: float = 1.0  # how often an idle rack looks whether a bus ended by itself
    monitor_buses: int = 32
    opus_rate: int = 48_000  # Hz
    opus_frame: int = 960  # samples: 20 ms
    opus_bit_rate: int = 96_000  # bit/s
    opus_complexity: int = 5  # of 10; a third less CPU than 10 for half a decibel of error
    opus_bit_rate_min: int = 32_000
    opus_bit_rate_max: int = 256_000
    opus_packet_bytes: int = 1_275

    # --- journal: group commit -----------------------------------------------------------------
    wal_commit_window: float = 0.05
    wal_batch_records: int = 4096
    wal_batch_bytes: int = 512 << 10  # record bytes of one batch; its message stays under the bus limit
    wal_record_bytes: int = 256 << 10
    wal_record_overhead_bytes: int = 32  # CBOR heads of one record, bounded from above
    wal_text_bytes: int = 255  # kind, subject
    wal_queue_records: int = 65_536
    wal_queue_bytes: int = 16 << 20

    # --- journal: hot files, segments, retention -----------------------------------------------
    wal_hot_file_bytes: int = 8 << 20
    wal_hot_file_age: float = 900.0  # a hot file older than this is sealed even when not full
    wal_space_retry: float = 1.0  # between two tries to make a hot file on a full disk
    wal_mark_sync: float = 1.0  # the high-water mark is made durable at least this often
    wal_seal_retry: float = 5.0
    wal_seal_rows: int = 2048  # records turned into one column chunk at a time
    wal_read_rows: int = 512  # of a segment turned into records at a time
    wal_export_rows: int = 65_536
    wal_key_file_bytes: int = 1 << 10
    wal_kek_file_bytes: int = 64 << 10
    wal_kek_versions: int = 16  # held at once; an older one goes when nothing uses it
    wal_credential_bytes: int = 1 << 20  # systemd's own limit
    wal_tpm_blob_bytes: int = 16 << 10
    wal_tpm_timeout: float = 30.0
    wal_quota_bytes: int = 4 << 30
    wal_grace: float = 86_400.0  # acknowledged segments are kept this long, if the quota lets them
    wal_age: float = 90 * 86_400.0  # what the mixer never had goes after this, with a tombstone
    wal_age_after_start: float = 86_400.0  # but not before: a rack that was off for long ships first
    wal_maintain: float = 10.0
    wal_maintain_first: float = 2.0  # start-up belongs to the first frame, not to sealing

    # --- journal: shipping ---------------------------------------------------------------------
    wal_tail_bytes: int = 4 << 20  # committed batches kept in memory for the shipper
    wal_ship_window: int = 64  # batches in one publish
    wal_ship_window_bytes: int = 256 << 10  # half of what the line holds back for live data too
    wal_ship_window_least_bytes: int = 16 << 10
    wal_ship_window_step_bytes: int = 64 << 10
    wal_ship_patience: float = 0.1  # what is under way may delay what is live by so much
    wal_ship_line_share: float = 0.8  # of the line's time, while there is a backlog
    wal_ship_work_share: float = 0.6  # of the interpreter's, for reading and signing it
    wal_ship_timeout: float = 10.0
    wal_ship_retry_first: float = 0.25
    wal_ship_retry_max: float = 10.0
    wal_ship_halt_retry: float = 60.0

    # --- enrollment ------------------------------------------------------------------------------
    enroll_timeout: float = 15.0
    enroll_reply_bytes: int = 256 << 10
    enrolled_poll: float = 0.05  # how often a waiting rack looks for its passport

    # --- commands --------------------------------------------------------------------------------
    command_max_ttl: int = 24 * 3600  # a command that lives longer is refused
    command_skew: int = 300  # how far ahead of ours the mixer's clock may be
    command_run: float = 30.0  # how long one command may take
    command_mark_bytes: int = 16 << 10
    commands_pending: int = 256
    command_refusal_window: float = 60.0  # refusals of one reason are folded into one alert
    command_refusals_kept: int = 64  # refused commands whose ack is kept, to be sent again as it is

    # --- identity: staging and locks -------------------------------------------------------------
    identity_lock_wait: float = 10.0
    lock_poll: float = 0.02
    identity_poll: float = 2.0  # how often a running rack looks for what another process staged
    staged_identities: int = 8  # that wait to be proved, at most
    succession_keys: int = 4096  # earlier ones that are remembered: a rekey a day for eleven years
    succession_bytes: int = 512 << 10

    # --- renewal ---------------------------------------------------------------------------------
    renew_due_share: float = 2 / 3  # of a certificate's life, from its begin
    renew_jitter_share: float = 1 / 12  # on top, at most
    renew_overdue_life_share: float = 1 / 4  # of life left, or the next field, whichever is less, is an alert
    renew_overdue: float = 7 * 86_400.0
    renew_alert_repeat: float = 86_400.0
    renew_retry_life_share: float = 1e-3  # the first back-off, within the two bounds below
    renew_retry_min: float = 1.0
    renew_retry_first_max: float = 60.0
    renew_retry_cap_life_share: float = 1e-2
    renew_retry_cap: float = 3_600.0
    renew_retry_cut_off_cap: float = 900.0  # while no connection is possible without it
    renew_cut_off_first: float = (
        5.0  # at most, from a certificate's end or the next field, until HTTPS is tried
    )
    renew_refused_for: float = 20.0  # admission refuses for this long before HTTPS is tried
    renew_check: float = 30.0  # the schedule is looked at this often: wall clocks jump
    renew_request_timeout: float = 10.0
    renew_repeat_for: int = 3_600  # seconds a request is repeated unchanged
    renew_answer_bytes: int = 512 << 10
    renew_command_timeout: float = 120.0
    renew_command_kill: float = 2.0  # between SIGTERM and SIGKILL
    renew_command_output: int = 8 << 10  # bytes of it that reach the log
    renew_command_chain: int = 64 << 10
    prove_retry: float = (
        60.0  # a staged identity that was refused is shown again after this long, then twice that, …
    )
    prove_retry_max: float = 3_600.0
    capture_retry: float = 10.0  # between two tries to start capture after an activation

    # --- sync ------------------------------------------------------------------------------------
    sync_interval: float = 600.0
    sync_retry: float = 30.0
    deny_lists_pending: int = 16

    # --- heartbeat -------------------------------------------------------------------------------
    host_sample: float = 5.0  # between two looks at the machine
    host_interfaces: int = 16
    host_addresses: int = 8  # of one interface
    heartbeat_bytes: int = 63 << 10  # of its body: with the header it must fit a record
    heartbeat_modules_bytes: int = 12 << 10  # for what it says of modules, if the rest leaves so much

    # --- modules -----------------------------------------------------------------------------------
    module_bytes: int = FORMAT.rack_modules_bytes  # of the files of one sheet; each counts once
    module_blocks_per_s: int = 50  # a module is given blocks of at most 20 ms
    module_outputs: int = 16  # subjects of one module's records between two starts of the rack
    module_floors: int = 4096  # modules whose serial floor is kept
    module_floors_bytes: int = 512 << 10
    module_time_bytes: int = 1 << 10
    module_time_save: float = 3_600.0  # the stored time floor may be as old
    module_time_step: float = 2.0  # trusted time moved by more than this between two looks was set
    module_check: float = 30.0  # what runs is judged anew this often: wall clocks jump
    module_retry: float = 1.0  # after a pass that failed
    module_bridge: float = 60.0  # a version goes on this long while the next one's file is on its way
    module_reason_chars: int = 200
    module_ask: float = 600.0  # between two questions for a newer patch sheet
    module_request_timeout: float = 30.0  # a piece is 256 KiB, a line may be slow
    module_retry_first: float = 1.0
    module_retry_max: float = 300.0
    module_fetch_tries: int = 5  # for one piece
    module_fetch_retry: float = 60.0  # after a file that the mixer did not give
    module_refetch: float = 600.0  # after a file that the guard refused

    # --- modules: hosts -----------------------------------------------------------------------------
    module_hosts: int = 8  # processes at most, of one a core
    module_chains: int = 256  # of one host
    module_channels: int = 64
    module_lane_blocks: int = 5  # that fit one round trip
    module_wait_share: float = 0.5  # of the time audio takes, may be waited for its modules
    module_wait_credit: float = 0.02  # that a late block may use at once
    module_strikes: int = 3
    module_strike_window: float = 60.0
    module_swap_wait: float = 0.5  # the version before is heard so long while the next one starts
    module_fade_wait: float = 0.2  # what is taken down may fade out for so long: two meter frames, and some
    module_take_away: float = 0.7  # a host that holds on to what is taken away for longer is ended
    module_withdraw: float = 0.3  # and for longer to what was revoked: its audio passes from then on
    module_host_silence: float = 1.0  # a host that does not answer for this long, and an epoch, is replaced
    module_host_watch: float = 0.1
    module_host_start: float = 20.0
    module_host_retry_first: float = 0.1
    module_host_retry_max: float = 10.0
    module_host_settled: float = 60.0  # a host that lived this long is restarted at once
    module_host_nice: int = 5
    module_host_data_bytes: int = 2 << 30  # memory it can write to; the next two are of it
    module_host_room_bytes: int = 1 << 30  # for what is placed on it
    module_host_swap_bytes: int = 512 << 20  # and for versions that end while the next ones start
    module_instance_bytes: int = 4 << 20  # what an instance takes beside its memory; 3 MiB was the most seen
    module_host_descriptors: int = 1024
    module_host_words_bytes: int = 4 << 10  # of its standard error that are kept for the log
    module_start_fuel: int = 10_000_000  # from instantiation to the end of init; its neighbours wait as long
    module_call_fuel: int = 20_000  # what calling the host costs a guest: about what it takes
    module_tick: float = 0.05  # of the epoch
    module_epoch_least: float = 0.2  # a shorter one would trip innocents
    module_logs_per_s: int = 10
    module_log_bytes: int = 1 << 10
    module_out_chars: int = 63
    module_data_items: int = 4096  # in one record of a module
    module_fault_chars: int = 300  # of what a host says went wrong
    module_message_bytes: int = 64 << 10  # between rack and host
    module_messages_a_turn: int = 64
    module_tally: float = 1.0  # between two counts of what instances did
    module_feed_record_bytes: int = 64 << 10

    # --- publishing ------------------------------------------------------------------------------
    handover_items: int = 4096  # audio items waiting for the event loop
    checkpoint_digests: int = 4096  # in one checkpoint, over all subjects
    late_bytes: int = 2 << 20  # alerts and acks that wait for the line, with the checkpoints that prove them
    stop_drain: float = 5.0  # how long a stopping rack tries to ship its last records


LIMITS = RackLimits()
