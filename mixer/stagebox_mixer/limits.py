"""Every size, count, rate and time limit of the mixer, in one place."""

from __future__ import annotations

from dataclasses import dataclass, field

from stagebox.modules.statement import ModuleLimits


@dataclass(frozen=True)
class MixerLimits:
    """Limits of the control plane. Sizes in bytes, times in seconds unless the name says otherwise."""

    # nats-server supervision
    nats_ready_s: float = 20.0
    nats_stop_s: float = 10.0
    nats_ports_poll_s: float = 0.005
    nats_restart_first_s: float = 0.1
    nats_restart_cap_s: float = 10.0
    nats_stable_s: float = 30.0
    nats_log_line_bytes: int = 64 << 10
    bus_away_s: float = (
        60.0  # without a connection of ours to a server that runs; then the mixer is not healthy
    )

    # Admission
    admission_sessions: int = 65_536
    admission_concurrency: int = 64
    admission_chains: int = 16_384  # proved certificate chains kept in memory
    registry_decoded: int = 16_384  # entries whose decoded form is kept beside their bytes

    # Bans, and the connections that must not stay
    deny_reason_chars: int = 200
    denied_record_bytes: int = 960 << 10  # must fit a message of the bus
    denied_cleared: int = 1024  # lifted bans that an older copy must not bring back
    deny_list_sources: int = 65_536  # racks whose copy was compared
    connections_page: int = 1024
    connections_overlap: int = 128  # of two pages, so that connections which end between them hide no other
    connections_wait_s: float = 1.0
    kick_wait_s: float = 1.0
    enforce_every_s: float = 10.0
    enforce_again_s: float = 1.0
    enforce_reads: int = 16  # registry entries read at once
    rights_grace_s: float = 0.5  # a suspended rack has this long to hear it and give up its rights
    superseded_grace_s: float = 5.0  # a rack that moves to a new identity ends its old connection itself

    # Enrollment
    token_default_ttl_s: int = 15 * 60
    token_max_ttl_s: int = 24 * 3600
    rack_certificate_days: int = 30
    passport_days: int = 365
    shared_token_bytes: int = 4096
    shared_token_min_chars: int = 24
    server_certificate_days: int = 90
    server_certificate_check_s: float = 3600.0

    # Renewal
    grace_days: int = 90
    grace_uses: int = 12
    renew_min_interval_s: float = 60.0
    earlier_keys: int = 8
    registry_attempts: int = 32  # compare-and-set rounds before a change is given up
    command_sequence_gap: int = (
        1_000_000  # how far a rack may say that this mixer's command sequence is behind
    )
    sync_write_interval_s: float = 5.0  # between two changes by the same rack's reports
    sync_deliver_interval_s: float = (
        30.0  # between two commands with one passport; the life of such a command
    )
    sync_racks: int = 65_536
    problem_chars: int = 200
    expiry_check_s: float = 3600.0

    # API
    request_body_bytes: int = 64 << 10
    api_shutdown_s: float = 3.0
    api_request_s: float = 15.0  # for a request to be there in full, from the connection or the answer before
    api_connections: int = 1024
    api_connections_per_source: int = 256  # 200 racks behind one address
    check_ttl_s: float = 5.0  # a person waits for the answer
    check_wait_s: float = 8.0
    reason_chars: int = 200
    audit_page_rows: int = 1000
    public_burst: int = (
        600  # for each source: 200 racks behind one address that come back at once, and their retries
    )
    public_per_s: float = 20.0
    public_sources: int = 4096
    metric_modules_per_rack: int = 64  # modules of one rack that have series of their own
    expiry_warning_days: float = 7.0
    expiry_warning_share: float = 0.25  # of a certificate's life; a renewal in time leaves at least that

    # Ingest
    wal_trim_every_s: float = 600.0
    ingest_fetch: int = 256
    ingest_fetch_bytes: int = 16 << 20
    ingest_wait_s: float = 1.0
    ingest_retry_s: float = 0.5
    ingest_idle_consumer_s: float = 60.0
    ingest_digests_per_rack: int = 100_000
    ingest_journals_per_rack: int = 64  # a new one begins when a disk is replaced
    ingest_alarm_again_s: float = 60.0  # of one rack for one reason; what comes between is counted
    ingest_commit_s: float = 1.0  # batches that came meanwhile share one commit
    ingest_commit_bytes: int = 16 << 20

    # Lake
    lake_manifest_bytes: int = 1 << 30
    lake_snapshot_every: int = 256
    lake_gaps: int = 256  # stretches of a journal that never came and are listed one by one
    lake_tidy_s: float = 30.0
    lake_sort_after_s: float = 300.0
    lake_sort_bytes: int = 16 << 20  # as stored; what is sorted is in memory, many times as large
    lake_file_min_bytes: int = 64 << 20
    lake_file_max_bytes: int = 128 << 20  # this much is in memory while files are merged
    lake_merge_files: int = 8
    lake_sweep_after_s: float = 600.0  # a removed file is still there for whoever reads it

    # Commands
    command_ttl_s: float = 30.0
    command_max_ttl_s: float = 24 * 3600.0
    command_resend_s: float = 1.0
    command_ack_grace_s: float = 2.0  # an ack on its way when the command expires still counts
    commands_waiting_per_rack: int = 16
    acks_pending: int = 4096
    acks_remembered: int = 4096  # settled commands whose repeated acks are not taken for strange

    # Listening
    listen_min_s: int = 5
    listen_max_s: int = 60
    listen_default_s: int = 30
    listen_rack_s: int = 90  # our lease at the rack: longer than any listener's, so that renewals are few
    listen_sweep_s: float = 0.5
    listeners_per_rack: int = 64
    listen_actor: str = "mixer"  # who tells a rack to stop when the last listener left

    # Presence
    presence_stale_s: float = 15.0  # without a heartbeat
    presence_offline_s: float = 30.0
    presence_sweep_s: float = 1.0
    presence_racks: int = 65_536
    presence_pending: int = 8192  # heartbeats waiting for the event loop

    # Requests of racks
    request_answer_s: float = 60.0  # how long the bus lets the mixer answer one
    requests_at_once: int = 64
    requests_waiting: int = 1024
    requests_per_rack: int = 4
    requests_burst: int = (
        60  # of one rack: on connecting it asks three things, each again if the answer is lost
    )
    requests_per_s: float = 2.0
    requests_racks: int = 65_536  # whose rate is remembered
    requests_modules_burst: int = 128  # of one rack for pieces of modules: 32 MiB
    requests_modules_per_s: float = 32.0

    # Modules
    module_limits: ModuleLimits = field(default_factory=ModuleLimits)  # where an import says nothing else
    module_record_bytes: int = 64 << 10
    modules: int = 4096  # versions in the registry
    module_cache_bytes: int = 32 << 20  # of verified files kept for racks that fetch
    module_store_s: float = 30.0  # to write or read one file
    module_sweep_s: float = 600.0  # between two looks for files that nothing needs
    module_unneeded_s: float = 1800.0  # until such a file is removed: racks ask for their sheets more often
    vendor_roots: int = 256
    assignments: int = 1024
    assignment_patterns: int = 64
    patches_at_once: int = 16  # racks told of a new sheet at the same time
    patch_racks: int = 65_536  # whose last sheet is remembered
    module_faults_waiting: int = 1024
    module_faults_of_rack: int = 32

    # Audit
    audit_batch_from_rows: int = 8  # fewer are written one by one: a batch costs the server about 3 ms
    audit_batch_rows: int = 1000  # the server takes no more in one batch
    audit_batch_bytes: int = 2 << 20
    audit_waiting_rows: int = 20_000
    audit_publish_s: float = 5.0
    audit_retry_s: float = 10.0  # how long a row is chained anew because other mixers were faster
    audit_yield_s: float = 1.0  # how long a mixer that met another one leaves it room
    audit_busy_s: float = 0.05  # how long a mixer writes on end before it leaves room for one it has not met
    audit_pause_s: float = 0.004
    audit_pause_cap_s: float = 0.1
    audit_page_bytes: int = 4 << 20
    audit_reads_at_once: int = 100
    audit_witness_s: float = 1.0
    refusal_window_s: float = 10.0
    refusal_keys: int = 4096
    refusal_burst_rows: int = 1000
    refusal_rows_per_s: float = 1.0  # of all sources together
    refusal_overflow_window_s: float = 60.0
    refusal_overflow_actions: int = 16
    refusal_text_bytes: int = 256
    refusal_detail_bytes: int = 512
    refusal_row_bytes: int = 1536
    refusal_message_chars: int = 256  # of what a refused message says about itself


LIMITS = MixerLimits()
