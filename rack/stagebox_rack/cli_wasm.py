"""``stagebox wasm test``: a module on a desk, run by the rack's own host. Needs no mixer, bus or signature."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stagebox.cli.lazy import epilog
from stagebox.cli.options import JsonOption
from stagebox.cli.progress import progress

if TYPE_CHECKING:
    from stagebox_rack.desk.audio_input import AudioInput
    from stagebox_rack.desk.audio_trial import Progress
    from stagebox_rack.desk.candidate import Candidate
    from stagebox_rack.desk.record_input import RecordInput

_EXAMPLES = """
[bold]Examples[/bold]

stagebox wasm test acme-gain.wasm

stagebox wasm test acme-gain.wasm --wav in.wav --out out.wav --param gain=-6

stagebox wasm test acme-watch.wasm --records records.jsonl --json
"""


@epilog(_EXAMPLES)
def test(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A module, signed or not.")],
    wav: Annotated[
        Path | None,
        typer.Option("--wav", metavar="FILE", help="Sound file to run it on; a made signal if not given."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="New WAV file for what comes out.")
    ] = None,
    records: Annotated[
        Path | None,
        typer.Option(
            "--records", metavar="FILE", help="Export of `rack wal export`, for a telemetry module."
        ),
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option("--param", metavar="NAME=VALUE", help="Set a parameter; may be given again."),
    ] = None,
    fuel: Annotated[
        int | None, typer.Option("--fuel", min=1, metavar="N", help="Budget of a block, if not as granted.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run a module in the rack's own host: timing, fuel, levels, records, faults. Exit code 1 unless clean."""
    from stagebox.cli.wasm.remote_assign import values
    from stagebox_rack.desk import report
    from stagebox_rack.desk.candidate import open_candidate

    candidate = open_candidate(file, values(param or []), fuel=fuel)
    with progress(file.name, quiet=as_json) as tell:
        found = _run(candidate, wav, out, records, tell)
    if as_json:
        typer.echo(json.dumps(found, allow_nan=False))
    else:
        for line in report.lines(found):
            typer.echo(line)
    if not found["clean"]:
        raise typer.Exit(1)


def _run(
    candidate: Candidate, wav: Path | None, out: Path | None, records: Path | None, tell: Progress
) -> dict[str, Any]:
    import asyncio

    from stagebox.errors import ConfigError
    from stagebox.modules.capabilities import Capability
    from stagebox_rack.desk import report
    from stagebox_rack.desk.audio_trial import AudioTrial
    from stagebox_rack.desk.record_trial import RecordTrial

    if records is not None or Capability.AUDIO not in candidate.granted:
        if Capability.TELEMETRY not in candidate.granted:
            raise ConfigError("the module takes audio, not records", remedy="give --wav, or no input at all")
        if out is not None:
            raise ConfigError("a telemetry module has no audio to write", remedy="leave --out away")
        if records is not None and wav is not None:
            raise ConfigError("--records and --wav contradict each other", remedy="say one")
        source = _record_input(records, wav)
        observed = asyncio.run(RecordTrial(candidate, source, tell).run())
        return report.of_records(candidate, source, observed)
    audio = _audio_input(wav)
    if out is not None and out.exists():
        raise ConfigError(f"{out} exists and is not overwritten", remedy="choose another name")
    done = asyncio.run(AudioTrial(candidate, audio, out, tell).run())
    return report.of_audio(candidate, audio, done.observed, done.before, done.after)


def _audio_input(wav: Path | None, made_s: float | None = None) -> AudioInput:
    from stagebox_rack.desk.audio_input import MadeSignal, SoundFile
    from stagebox_rack.desk.limits import LIMITS

    return SoundFile(wav) if wav is not None else MadeSignal(made_s or LIMITS.signal_s)


def _record_input(records: Path | None, wav: Path | None) -> RecordInput:
    from stagebox_rack.desk.limits import LIMITS
    from stagebox_rack.desk.record_input import ExportedRecords, MeasuredAudio

    return (
        ExportedRecords(records) if records is not None else MeasuredAudio(_audio_input(wav, LIMITS.meters_s))
    )
