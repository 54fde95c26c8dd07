"""What Prometheus sees, and that the alerts we ship ask for things it does see."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from prometheus_client.core import Metric

from stagebox.control.denylist import DenyList, denied
from stagebox.passport import PassportStatus
from stagebox_mixer.api.exposition import Snapshot, expires_unrenewed, families
from stagebox_mixer.api.services import Counters
from stagebox_mixer.limits import LIMITS
from stagebox_mixer.presence.roll import Heartbeat, Presence, PresenceState
from stagebox_mixer.registry.model import RackEntry

ROOT = Path(__file__).parents[3]
RULES = ROOT / "deploy" / "prometheus" / "stagebox.rules.yml"
REFERENCE = ROOT / "docs" / "reference" / "api.md"
NOW_S = 1_800_000_000.0
DAY_S = 86_400.0
FUNCTIONS = {"increase", "resets", "time", "unless", "or", "and", "on"}


def rack(name: str = "stage-left", *, days: float = 20, **fields: object) -> RackEntry:
    entry = RackEntry(
        name=name,
        tenant="default",
        machine_id=0xBEEF,
        rack_public=bytes(32),
        status=PassportStatus.ACTIVE,
        serial=3,
        secret_hash=bytes(32),
        certificate="sha256:" + "a" * 64,
        certificate_not_after=int((NOW_S + days * DAY_S) * 1e9),
        enrolled_at=1,
        passport_not_after=int((NOW_S + 300 * DAY_S) * 1e9),
    )
    return dataclasses.replace(entry, **fields)  # type: ignore[arg-type]


def snapshot(*racks: RackEntry, deny: DenyList | None = None, **counted: int) -> Snapshot:
    return Snapshot(
        racks=racks,
        deny=deny if deny is not None else DenyList("venue", epoch=7),
        audit_last=42,
        healthy=True,
        counters=Counters(**counted),
        certificate_days=30,
        now_s=NOW_S,
    )


def values(found: Snapshot) -> dict[tuple[str, tuple[str, ...]], float]:
    metrics: list[Metric] = list(families(found))
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for metric in metrics
        for sample in metric.samples
    }


def test_every_rack_has_its_certificates_end_in_seconds() -> None:
    shown = values(snapshot(rack("a", days=20), rack("b", days=-1)))
    assert shown["stagebox_rack_certificate_not_after_seconds", ("a",)] == NOW_S + 20 * DAY_S
    assert shown["stagebox_rack_certificate_not_after_seconds", ("b",)] == NOW_S - DAY_S
    assert shown["stagebox_rack_passport_not_after_seconds", ("a",)] == NOW_S + 300 * DAY_S


@pytest.mark.parametrize(
    ("left_days", "life_days", "due"),
    [(20, 30, 0), (7.01, 30, 0), (6.99, 30, 1), (-5, 30, 1), (6, 397, 1), (1.9, 7, 0), (1.7, 7, 1)],
)
def test_a_certificate_is_due_below_seven_days_or_a_quarter_of_a_short_life(
    left_days: float, life_days: float, due: int
) -> None:
    entry = rack(days=left_days)
    assert expires_unrenewed(entry, now_s=NOW_S, certificate_days=life_days) == bool(due)


def test_the_reasons_to_look_at_a_rack_are_series_of_their_own() -> None:
    deny = DenyList("venue", epoch=8).with_denied(denied("rack", "stolen"), now_ns=1)
    shown = values(
        snapshot(
            rack("fine"),
            rack("late", days=3, grace_uses=2, problem="the mixer refused: grace_ended"),
            rack("stolen", machine_id=1),
            deny=deny,
        )
    )
    for name, late in (("expires_unrenewed", 1), ("grace_uses", 2), ("renewal_failing", 1), ("denied", 0)):
        assert shown[f"stagebox_rack_{name}", ("fine",)] == 0
        assert shown[f"stagebox_rack_{name}", ("late",)] == late
    assert shown["stagebox_rack_denied", ("stolen",)] == 1
    assert shown["stagebox_deny_list_epoch", ()] == 9
    assert shown["stagebox_denied", ("rack",)] == 1
    assert shown["stagebox_denied", ("certificate",)] == 0


def test_racks_are_counted_by_status_and_removed_ones_not_at_all() -> None:
    shown = values(
        snapshot(rack("a"), rack("b"), rack("c", status=PassportStatus.SUSPENDED), rack("gone", removed_at=5))
    )
    assert [shown["stagebox_racks", (status.value,)] for status in PassportStatus] == [0, 2, 1]
    assert not [labels for _, labels in shown if "gone" in labels]


def test_every_counter_of_the_mixer_is_shown_under_its_own_name() -> None:
    numbers = {field.name: number for number, field in enumerate(dataclasses.fields(Counters), 1)}
    shown = values(snapshot(deny=None, **numbers))
    totals = [value for (name, _), value in shown.items() if name.endswith("_total")]
    assert totals == list(numbers.values())
    assert shown["stagebox_grace_renewals_total", ()] == numbers["grace_renewals"]
    assert shown["stagebox_audit_last_sequence", ()] == 42


BODY = {
    "host": {"cpu_percent": 12.5, "temperature_c": 51, "disk_free": 1 << 30},
    "wal": {"lag_records": 7},
    "sources": [{"xruns": 2, "gap_frames": 4800}, {"xruns": 1, "gap_frames": 0}],
    "modules": [
        {"insert": "a", "module": "spl", "faults": 1, "over_budget": 2, "bypassed": 3},
        {"insert": "b", "module": "spl", "faults": 10, "over_budget": 20, "bypassed": 30},
        {"insert": "c", "module": "noise", "faults": 0},
    ],
}


def heard(body: dict[str, object], state: PresenceState = PresenceState.ONLINE) -> Presence:
    return Presence(state, 3.5, Heartbeat("running", body, 1, bytes(16), 0.0, 1))


def exported() -> set[str]:
    found = dataclasses.replace(snapshot(rack()), presence={"stage-left": heard(BODY)})
    return {name for name, _ in values(found)}


def test_what_a_rack_says_of_itself_is_a_series_and_what_it_does_not_say_is_none() -> None:
    oddly = {"host": {"cpu_percent": "hot", "temperature_c": None, "disk_free": float("nan")}, "sources": 3}
    shown = values(
        dataclasses.replace(
            snapshot(rack("a"), rack("b"), rack("never")),
            presence={"a": heard(BODY), "b": heard(oddly, PresenceState.OFFLINE)},
        )
    )
    assert shown["stagebox_rack_presence", ("a", "online")] == 1
    assert shown["stagebox_rack_presence", ("a", "offline")] == 0
    assert shown["stagebox_rack_presence", ("b", "offline")] == 1
    assert shown["stagebox_rack_heartbeat_age_seconds", ("a",)] == 3.5
    assert shown["stagebox_rack_temperature_celsius", ("a",)] == 51
    assert shown["stagebox_rack_xruns", ("a",)] == 3
    assert shown["stagebox_rack_gap_frames", ("a",)] == 4800
    from_heartbeat = ("cpu_percent", "temperature_celsius", "disk_free_bytes", "journal_lag_records", "xruns")
    assert not [name for name in from_heartbeat if (f"stagebox_rack_{name}", ("b",)) in shown]
    assert not [
        name for name, labels in shown if name.startswith("stagebox_rack_presence") and "never" in labels
    ]


def test_a_module_has_one_series_a_rack_for_all_its_inserts() -> None:
    shown = values(dataclasses.replace(snapshot(rack("a")), presence={"a": heard(BODY)}))
    assert shown["stagebox_rack_module_faults", ("a", "spl")] == 11
    assert shown["stagebox_rack_module_over_budget", ("a", "spl")] == 22
    assert shown["stagebox_rack_module_bypassed", ("a", "spl")] == 33
    assert shown["stagebox_rack_module_faults", ("a", "noise")] == 0
    assert ("stagebox_rack_module_bypassed", ("a", "noise")) not in shown


def test_a_rack_that_makes_up_modules_gets_so_many_series_and_no_label_of_its_own_making() -> None:
    made_up = [{"module": f"m-{number}", "faults": 1} for number in range(1000)]
    odd: list[object] = [{"module": 'x"} 1\n', "faults": 1}, {"module": 7, "faults": 1}, "spl", {}]
    odd += [{"module": "huge", "faults": 10**400}, {"module": "text", "faults": "1"}]
    shown = values(
        dataclasses.replace(
            snapshot(rack("a"), rack("b"), rack("c")),
            presence={"a": heard({"modules": odd + made_up}), "b": heard({"modules": 3}), "c": heard({})},
        )
    )
    labels = [labels for name, labels in shown if name == "stagebox_rack_module_faults"]
    assert labels == [("a", f"m-{number}") for number in range(LIMITS.metric_modules_per_rack - 2)]


def test_the_alerts_ask_only_for_metrics_that_exist() -> None:
    expressions = re.findall(r"^ +expr: (.+)$", RULES.read_text(), re.MULTILINE)
    alerts = re.findall(r"^ +- alert: (\w+)$", RULES.read_text(), re.MULTILINE)
    assert len(expressions) == len(alerts) == len(set(alerts)) > 0
    for expression in expressions:
        metrics_only = re.sub(r"\[[^]]*\]|\{[^}]*\}|on\([^)]*\)", "", expression)
        words = set(re.findall(r"[a-z_]+[a-z](?![a-z_]*\])", metrics_only))
        assert words - FUNCTIONS, expression
        assert words - FUNCTIONS <= exported(), expression


def test_there_is_an_alert_for_a_certificate_that_ends_soon_and_was_not_renewed() -> None:
    rule = RULES.read_text().split("- alert: StageboxCertificateExpiresUnrenewed")[1].split("- alert:")[0]
    assert "expr: stagebox_rack_expires_unrenewed == 1" in rule
    assert "expires in < 7 days and was not renewed" in rule


def test_the_reference_lists_every_metric_and_no_other() -> None:
    listed = set(re.findall(r"^\| `(stagebox_\w+)", REFERENCE.read_text(), re.MULTILINE))
    assert listed == exported()
