"""Guests that loop, grow, recurse, trap, lie and hang: audio goes on, the rest of the rack does not notice."""

from __future__ import annotations

import time

import numpy as np
import pytest

from stagebox.modules.capabilities import Capability
from stagebox.modules.interface import check_interface, read_interface
from stagebox.modules.statement import ModuleLimits
from stagebox.modules.walker import walk
from stagebox_rack.limits import LIMITS
from stagebox_rack.modules.hosting.hosted import (
    Emitted,
    Faulted,
    InsertState,
    Logged,
    OverBudget,
    Started,
    Stopped,
)
from support.hosting import (
    BLOCK,
    FOREVER,
    dry,
    emitting,
    module_stage,
    module_wat,
    ones,
    placed,
    play,
    play_until,
    wet,
)
from support.modules import assemble

SLOW = ModuleLimits(fuel_per_block=1_000_000_000, epoch_ms=200)
ALL = tuple(Capability)


def trap_on(block: int) -> str:
    return f"(if (i32.eq (global.get $blocks) (i32.const {block})) (then (unreachable)))"


async def test_a_module_is_heard_and_keeps_its_state_from_block_to_block() -> None:
    counting = module_wat("(global.set $gain (f32.convert_i32_s (global.get $blocks)))")
    async with module_stage() as stage:
        chain = await stage.chain(placed(counting))
        heard = await play(chain, ones(BLOCK * 4))
        assert [float(heard[at * BLOCK, 0]) for at in range(1, 4)] == [2.0, 3.0, 4.0]
        assert chain.counters.bypassed == 0


@pytest.mark.parametrize(
    ("wat", "code"),
    [
        (module_wat(fields=f"(func $begin {FOREVER}) (start $begin)"), "out_of_fuel"),
        (module_wat(init=f"{FOREVER} (i32.const 0)"), "out_of_fuel"),
        (module_wat(fields=f'(func (export "_initialize") {FOREVER})'), "out_of_fuel"),
        (module_wat(fields="(func $deep (call $deep)) (start $deep)"), "stack_overflow"),
        (module_wat(init="(unreachable)"), "unreachable"),
        (module_wat(init="(i32.const 7)"), "init_refused"),
        (module_wat(in_ptr=65_537), "bad_buffer"),
        (module_wat(in_ptr=8 * 65_536), "bad_buffer"),
        (module_wat(out_ptr=5 * 65_536 - 4 * BLOCK + 4), "bad_buffer"),
        (module_wat(memory="5 100000", fields=""), "does_not_compile"),
        (module_wat(memory="300 400"), "does_not_start"),
        (module_wat(fields="(table 5000 funcref)"), "does_not_start"),
    ],
)
async def test_a_module_that_cannot_be_started_is_stopped_and_audio_passes(wat: str, code: str) -> None:
    async with module_stage() as stage:
        chain = await stage.chain(placed(wat))
        stopped = await stage.event(Stopped)
        assert stopped.code == code
        assert dry(await play(chain, ones(BLOCK * 3)))
        assert stage.of(Started) == []


@pytest.mark.parametrize(
    ("wat", "code"),
    [
        ('(module (memory (export "memory") i64 1 2))', "does_not_compile"),
        ('(module (memory (export "memory") 1 2 shared))', "does_not_compile"),
        ("(module (memory 1) (memory 1))", "does_not_compile"),
        ("(module (tag (param i32)))", "does_not_compile"),
        ("(module (type (struct)))", "does_not_compile"),
        ("(component)", "does_not_compile"),
        (
            module_wat(
                imports='(import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))'
            ),
            "does_not_start",
        ),
        (module_wat(imports='(import "env" "system" (func (param i32) (result i32)))'), "does_not_start"),
        (module_wat(imports='(import "stagebox" "open" (func))'), "does_not_start"),
        (module_wat(imports='(import "stagebox" "now" (func (result i64)))'), "does_not_start"),
        (
            module_wat(imports='(import "stagebox" "log" (func (param i32 i32) (result i32)))'),
            "does_not_start",
        ),
    ],
)
async def test_what_is_not_in_the_abi_is_not_there_for_a_module(wat: str, code: str) -> None:
    async with module_stage() as stage:
        chain = await stage.chain(placed(wat, granted=(Capability.AUDIO, Capability.LOG)))
        assert (await stage.event(Stopped)).code == code
        assert dry(await play(chain, ones()))


async def test_text_is_never_compiled() -> None:
    async with module_stage() as stage:
        await stage.chain(placed(module_wat().encode()))
        assert (await stage.event(Stopped)).code == "does_not_compile"


@pytest.mark.parametrize("name", ["init", "process", "in_ptr", "param", "memory"])
async def test_an_export_of_another_type_is_never_called(name: str) -> None:
    wat = module_wat().replace(f'(export "{name}")', f'(export "{name}-")')
    wat = (
        wat.rstrip().removesuffix(")")
        + f'(func (export "{name}") (param f64 f64) (result f64) (f64.const 0)))'
    )
    async with module_stage() as stage:
        await stage.chain(placed(wat))
        assert (await stage.event(Stopped)).code in ("export_type", "export_missing")


async def test_an_infinite_loop_in_process_costs_its_fuel_and_after_three_blocks_the_module() -> None:
    async with module_stage() as stage:
        chain = await stage.chain(placed(module_wat(FOREVER), limits=ModuleLimits(fuel_per_block=1_000_000)))
        heard = await play(chain, ones(BLOCK * 10), pause=0.02)
        stopped = await stage.event(Stopped)
        assert dry(heard)
        assert [event.code for event in stage.of(OverBudget)] == ["out_of_fuel"] * 3
        assert [event.strikes for event in stage.of(OverBudget)] == [1, 2, 3]
        assert stopped.code == "out_of_fuel"
        status = stage.hosts.status()["one"]
        assert (status.state, status.over_budget, status.faults) == (InsertState.STOPPED, 3, 0)


async def test_what_fuel_does_not_stop_the_epoch_does() -> None:
    # Each root waits for the one before, and fuel takes one for it however long it takes: all of it lasts seconds.
    roots = "(f64.sqrt " * 48 + "(f64.add (local.get $x) (f64.const 1e10))" + ")" * 48
    slow = f"(func $slow (local $x f64) (loop $on (local.set $x {roots}) (br $on)))"
    async with module_stage() as stage:
        chain = await stage.chain(placed(module_wat("(call $slow)", fields=slow), limits=SLOW))
        begun = time.monotonic()
        assert dry(await play(chain, ones()))
        assert time.monotonic() - begun < 0.1, "audio did not wait for it"
        over = await stage.event(OverBudget)
        assert over.code == "too_slow"
        assert time.monotonic() - begun < 2


async def test_a_host_call_costs_what_it_takes_so_a_loop_of_them_ends() -> None:
    process = "(loop $forever (drop (call $now)) (br $forever))"
    wat = module_wat(process, imports='(import "stagebox" "now" (func $now (result i64)))')
    async with module_stage() as stage:
        chain = await stage.chain(placed(wat, granted=ALL))
        begun = time.monotonic()
        assert dry(await play(chain, ones()))
        assert (await stage.event(OverBudget)).code == "out_of_fuel"
        assert time.monotonic() - begun < 0.2, "10 million instructions' worth, not 10 million calls"


CALLS = {
    "log": ("(call $log (i32.const 0) (i32.const 0) (i32.const 0))", "(param i32 i32 i32)"),
    "emit": (
        "(drop (call $emit (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)))",
        "(param i32 i32 i32 i32) (result i32)",
    ),
    "now": ("(drop (call $now))", "(result i64)"),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(("many", "affordable"), [(100, False), (4, True)])
async def test_a_row_of_host_calls_without_a_loop_is_paid_for_like_any_other(
    name: str, many: int, affordable: bool
) -> None:
    # The engine looks at the fuel in loops and where a function begins; here is neither.
    call, type_ = CALLS[name]
    wat = module_wat(
        f"{call * many} (return (local.get $frames))",
        imports=f'(import "stagebox" "{name}" (func ${name} {type_}))',
    )
    async with module_stage() as stage:
        chain = await stage.chain(placed(wat, granted=ALL, limits=ModuleLimits(fuel_per_block=100_000)))
        await play(chain, ones())
        if affordable:
            assert not stage.of(OverBudget)
            assert chain.counters.bypassed == 0
            return
        over = await stage.event(OverBudget)
        assert (over.code, over.strikes) == ("out_of_fuel", 1)
        assert "process: what is left does not pay for a call of the host" in over.reason
        broken = module_wat(fields="(func $begin unreachable) (start $begin)")
        await stage.chain(placed(broken, insert="other"), name="other")
        assert (await stage.event(Stopped)).code == "unreachable", "each is blamed for its own"


@pytest.mark.parametrize("where", ["start", "init"])
async def test_a_row_of_host_calls_at_the_start_is_paid_for_too(where: str) -> None:
    row, imports = "(drop (call $now))" * 60_000, '(import "stagebox" "now" (func $now (result i64)))'
    if where == "init":
        wat = module_wat(imports=imports, init=f"{row} (i32.const 0)")
    else:
        wat = module_wat(imports=imports, fields=f"(func $begin {row}) (start $begin)")
    async with module_stage() as stage:
        await stage.chain(placed(wat, granted=ALL))
        stopped = await stage.event(Stopped)
        assert stopped.code == "out_of_fuel"
        assert f"{where}: what is left does not pay for a call of the host" in stopped.reason


async def test_memory_grows_to_what_is_granted_and_no_further() -> None:
    # The output is the number of pages there are.
    process = """
      (drop (memory.grow (i32.const 1)))
      (global.set $gain (f32.convert_i32_u (memory.size)))
    """
    limits = ModuleLimits(memory_bytes=7 * 65_536)
    async with module_stage() as stage:
        chain = await stage.chain(placed(module_wat(process, memory="5 100"), limits=limits))
        heard = await play(chain, ones(BLOCK * 6))
        assert [float(heard[at * BLOCK + BLOCK - 1, 0]) for at in range(6)] == [6.0, 7.0, 7.0, 7.0, 7.0, 7.0]
        assert stage.of(Faulted) == []


async def test_a_table_grows_to_what_is_granted_and_no_further() -> None:
    process = """
      (drop (table.grow $t (ref.null func) (i32.const 8)))
      (global.set $gain (f32.convert_i32_u (table.size $t)))
    """
    limits = ModuleLimits(table_elements=20)
    async with module_stage() as stage:
        chain = await stage.chain(placed(module_wat(process, fields="(table $t 8 funcref)"), limits=limits))
        heard = await play(chain, ones(BLOCK * 4))
        assert [float(heard[at * BLOCK + BLOCK - 1, 0]) for at in range(4)] == [16.0, 16.0, 16.0, 16.0]


async def test_several_tables_grow_together_to_what_is_granted_and_no_further() -> None:
    # Of five each, as many as may be: what is granted is 20.
    names = [f"$t{number}" for number in range(4)]
    grow = "".join(f"(drop (table.grow {name} (ref.null func) (i32.const 1)))" for name in names)
    sizes = "".join(f"(i32.add (table.size {name}) " for name in names) + "(i32.const 0)" + ")" * len(names)
    tables = "".join(f"(table {name} 0 5 funcref)" for name in names)
    wat = module_wat(f"{grow} (global.set $gain (f32.convert_i32_u {sizes}))", fields=tables)
    limits, wasm = ModuleLimits(table_elements=20), assemble(wat)
    check_interface(read_interface(wasm, walk(wasm)), (Capability.AUDIO,), limits)
    async with module_stage() as stage:
        chain = await stage.chain(placed(wasm, limits=limits))
        heard = await play(chain, ones(BLOCK * 8))
        totals = [float(heard[at * BLOCK + BLOCK - 1, 0]) for at in range(8)]
        assert totals == [4.0, 8.0, 12.0, 16.0, 20.0, 20.0, 20.0, 20.0]


@pytest.mark.parametrize(
    ("process", "fields", "code"),
    [
        ("(call $deep)", "(func $deep (call $deep))", "stack_overflow"),
        ("(unreachable)", "", "unreachable"),
        ("(drop (i32.load (i32.const 0x7fffffff)))", "", "memory_out_of_bounds"),
        ("(drop (i32.div_u (i32.const 1) (i32.const 0)))", "", "integer_division_by_zero"),
        ("(call_indirect (i32.const 3))", "(table 4 funcref)", "indirect_call_to_null"),
        ("(return (i32.sub (local.get $frames) (i32.const 1)))", "", "short_output"),
        ("(return (i32.const -1))", "", "short_output"),
        ("(global.set $gain (f32.const nan))", "", "not_finite"),
        ("(global.set $gain (f32.const inf))", "", "not_finite"),
    ],
)
async def test_a_fault_costs_the_block_and_three_of_them_the_module(
    process: str, fields: str, code: str
) -> None:
    async with module_stage() as stage:
        chain = await stage.chain(placed(module_wat(process, fields=fields)))
        heard = await play(chain, ones(BLOCK * 8), pause=0.02)
        assert dry(heard)
        stopped = await stage.event(Stopped)
        assert [event.code for event in stage.of(Faulted)] == [stopped.code] * 3
        assert code in stopped.code
        assert stage.hosts.status()["one"].faults == 3


async def test_a_guest_that_traps_on_the_thousandth_block_loses_that_block_only() -> None:
    block = 48
    async with module_stage() as stage:
        chain = await stage.chain(placed(module_wat(trap_on(1000))))
        heard = await play(chain, ones(1100 * block), block=block)
        assert (await stage.event(Faulted)).code.startswith("unreachable")
        blocks = heard.reshape(1100, block)
        assert np.all(blocks[20:999] == 0.5), "after the fade-in and before the trap"
        assert np.all(blocks[999] == 1.0), "the block of the trap passes as it is"
        assert np.all(blocks[-1] == 0.5), "a fresh instance goes on"
        steps = np.abs(np.diff(heard[1000 * block :, 0]))
        assert steps.max() < 0.01, "and fades in"
        assert stage.of(Stopped) == []


async def test_an_input_that_is_not_finite_is_not_the_modules_fault() -> None:
    async with module_stage() as stage:
        chain = await stage.chain(placed())
        await play(chain, ones(BLOCK * 3))
        bad = ones()
        bad[5], bad[6] = np.nan, np.inf
        heard = await play(chain, bad)
        assert heard[5, 0] == 0.0
        assert heard[6, 0] == 0.0
        assert wet(await play(chain, ones()))
        assert stage.of(Faulted) == []


async def test_a_fault_of_one_module_leaves_the_others_of_its_chain_alone() -> None:
    async with module_stage() as stage:
        chain = await stage.chain(
            placed(insert="first"), placed(module_wat(trap_on(5)), insert="second"), placed(insert="third")
        )
        heard = await play(chain, ones(BLOCK * 9), pause=0.01)
        levels = [float(heard[at * BLOCK + BLOCK - 1, 0]) for at in range(9)]
        assert levels == [0.125] * 4 + [0.25] + [0.125] * 4
        assert {event.insert for event in stage.of(Faulted)} == {"second"}


async def test_what_a_trap_says_cannot_forge_a_line_or_drive_a_terminal() -> None:
    wasm = assemble(module_wat("(unreachable)"))
    # The name section: subsection 1, the functions' names; every function gets this one.
    evil = b"x\n2026-01-01 [error] forged\x1b[31m\x07\xe2\x80\xae"
    count = 6
    names = bytes([count]) + b"".join(bytes([index, len(evil)]) + evil for index in range(count))
    content = b"\x04name\x01" + bytes([0x80 | len(names) & 0x7F, len(names) >> 7]) + names
    wasm += b"\x00" + bytes([0x80 | len(content) & 0x7F, len(content) >> 7]) + content
    async with module_stage() as stage:
        chain = await stage.chain(placed(wasm))
        await play(chain, ones())
        fault = await stage.event(Faulted)
        assert "forged" in fault.reason
        assert fault.reason.isprintable()


async def test_lines_of_a_module_are_escaped_cut_and_limited() -> None:
    data = '(data (i32.const 0) "line\\0a\\1b[2Jend")'
    wat = module_wat(
        "(call $log (i32.const 99) (i32.const 0) (i32.const 12))"
        "(call $log (i32.const 0) (i32.const 0) (i32.const 2000))"
        "(call $log (i32.const 0) (i32.const 0x7fffffff) (i32.const 12))"
        "(call $log (i32.const 0) (i32.const 0) (i32.const -1))",
        imports='(import "stagebox" "log" (func $log (param i32 i32 i32)))',
        fields=data,
    )
    async with module_stage() as stage:
        chain = await stage.chain(placed(wat, granted=ALL))
        await play(chain, ones(BLOCK * 20))
        first = await stage.event(Logged)
        assert first.text == "line\\n\\x1b[2Jend"
        assert first.level == 3
        await stage.chain(
            placed(), name="after"
        )  # starts in the same host: what that said before was heard by then
        lines = stage.of(Logged)
        assert len(lines) <= LIMITS.module_logs_per_s + 1
        assert all(line.text.isprintable() for line in lines)
        assert stage.of(Faulted) == []


async def test_a_record_says_which_block_it_was_made_in() -> None:
    async with module_stage() as stage:
        # {"a": 1}
        chain = await stage.chain(placed(emitting("\\a1\\61\\61\\01", 4), granted=ALL))
        chain.process(ones(2 * BLOCK), start=96_000, time_ns=5_000_000_000)
        first, second = await stage.event(Emitted), await stage.event(Emitted, 2)
        assert (first.out, first.data, first.start, first.time_ns) == ("leq", {"a": 1}, 96_000, 5_000_000_000)
        assert (second.start, second.time_ns) == (96_000 + BLOCK, 5_020_000_000)
        assert (first.place, first.insert, first.module, first.version) == ("hall", "one", "half", "1.0.0")


@pytest.mark.parametrize(
    ("data", "size", "out"),
    [
        ("\\a1\\61\\61", 3, "leq"),  # cut short
        ("\\01", 1, "leq"),  # no map
        ("\\a1\\01\\01", 3, "leq"),  # a key that is no text
        ("\\a1\\61\\61\\f9\\7e\\00", 6, "leq"),  # NaN
        ("\\a1\\61\\61\\c0\\61\\61", 6, "leq"),  # a tag
        ("\\a1\\61\\61\\01", 4, "Leq"),  # no name
        ("\\a1\\61\\61\\01", 4, "a.b"),
        ("\\a1\\61\\61\\01", 4, "*"),
        ("\\a1\\61\\61\\01", 9_000, "leq"),  # larger than granted
    ],
)
async def test_a_record_that_is_none_is_refused_to_the_module(data: str, size: int, out: str) -> None:
    async with module_stage() as stage:
        chain = await stage.chain(placed(emitting(data, size, out), granted=ALL))
        heard = await play(chain, ones(BLOCK * 2))
        assert heard[-1, 0] == 2.0
        assert stage.of(Emitted) == []


async def test_records_over_the_rate_are_refused_to_the_module() -> None:
    limits = ModuleLimits(records_per_s=3)
    async with module_stage() as stage:
        chain = await stage.chain(placed(emitting("\\a1\\61\\61\\01", 4), granted=ALL, limits=limits))
        heard = await play(chain, ones(BLOCK * 10))
        answers = [float(heard[at * BLOCK + BLOCK - 1, 0]) for at in range(10)]
        assert answers == [0.0] * 3 + [1.0] * 7
        await stage.event(Emitted, 3)
        assert len(stage.of(Emitted)) == 3


async def test_parameters_are_set_while_the_instance_goes_on() -> None:
    process = "(global.set $gain (f32.add (global.get $gain) (f32.const 1)))"
    async with module_stage() as stage:
        chain = await stage.chain(placed(module_wat(process), params={0: 10.0}))
        assert (await play(chain, ones(BLOCK * 2)))[-1, 0] == 12.0
        await stage.hosts.arrange(chain, [placed(module_wat(process), params={0: 1000.0})])
        # Counting on from 12 does not come that far.
        await play_until(chain, lambda heard: heard[-1, 0] == 1001.0)
        assert len(stage.of(Started)) == 1


async def test_a_parameter_that_is_refused_is_a_fault_and_set_again_in_the_next_instance() -> None:
    async with module_stage() as stage:
        chain = await stage.chain(placed(params={0: 0.25}))
        await stage.hosts.arrange(chain, [placed(params={0: 0.25, 1: 1.0})])
        assert (await stage.event(Faulted)).code == "param_refused"
        stopped = await stage.event(Stopped)  # it cannot be started with it either
        assert stopped.code == "param_refused"
