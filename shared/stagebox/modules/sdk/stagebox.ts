/**
 * Stagebox module ABI, version 1, for AssemblyScript: docs/reference/module-abi.md has the same to the byte.
 *
 * A module exports from its entry file, as its capabilities ask for:
 *
 *   init(rate: i32, channels: i32, maxFrames: i32): i32     all; READY, anything else refuses
 *   close(): void                                           optional
 *   param(id: i32, value: f32): i32                         with parameters; 0 is taken
 *   in_ptr(): usize, out_ptr(): usize                       audio; planar float32, channel c at + c * maxFrames * 4
 *   process(frames: i32): i32                               audio; returns frames
 *   record_ptr(): usize, record_capacity(): i32             telemetry
 *   record(kind: i32, subjectBytes: i32, recordBytes: i32): i32   telemetry; 0 is taken
 *
 * Import from "stagebox" and build with `--lib <directory of this file> --runtime stub --use abort= --exportStart
 * _initialize --maximumMemory <pages>`: without `--use abort=` the compiler imports env.abort, which no host grants.
 * Make objects at the top level or in init only: the stub runtime never frees. An import ends up in the file only if
 * it is called.
 *
 * SPDX-License-Identifier: Apache-2.0
 */

export const READY: i32 = 0;
export const REFUSED: i32 = 1;

/** Kinds of record(). */
export const METER: i32 = 1;
export const EVENT: i32 = 2;
export const ALERT: i32 = 3;

/** Levels of log(). */
export const LOG_DEBUG: i32 = 0;
export const LOG_INFO: i32 = 1;
export const LOG_WARNING: i32 = 2;
export const LOG_ERROR: i32 = 3;

/** Answers of emit(). */
export const TAKEN: i32 = 0;
export const OVER_RATE: i32 = 1;
export const MALFORMED: i32 = 2;

// @ts-ignore: decorator
@external("stagebox", "log")
export declare function hostLog(level: i32, ptr: usize, bytes: i32): void;

// @ts-ignore: decorator
@external("stagebox", "emit")
export declare function hostEmit(out: usize, outBytes: i32, ptr: usize, bytes: i32): i32;

/** Capability clock: ns since the Unix epoch. */
// @ts-ignore: decorator
@external("stagebox", "now")
export declare function now(): i64;

/** Strings of the language are UTF-16; this is where they become UTF-8. */
const LINE: i32 = 1024;
const line: usize = memory.data(LINE);

/** Writes `text` to the shared line as UTF-8 and returns its bytes; what may not fit is cut off. */
function encodeLine(text: string): i32 {
  // A UTF-16 unit takes at most three bytes.
  const units = min(text.length, LINE / 3);
  return <i32>String.UTF8.encodeUnsafe(changetype<usize>(text), units, line);
}

/** Capability log: a line for the rack's log. */
export function log(level: i32, text: string): void {
  hostLog(level, line, encodeLine(text));
}

/** Capability emit: what `writer` holds, one map, as a record named `out` under this module's own subject. */
export function emit(out: string, writer: Writer): i32 {
  if (writer.failed) return MALFORMED;
  return hostEmit(line, encodeLine(out), writer.base, writer.length);
}

/** CBOR into a buffer. What does not fit is not written, and `failed` stays set until reset(). */
export class Writer {
  length: i32 = 0;
  failed: bool = false;

  constructor(public base: usize, public capacity: i32) {}

  reset(): void {
    this.length = 0;
    this.failed = false;
  }

  private put(byte: u8): void {
    if (this.length < this.capacity) store<u8>(this.base + this.length++, byte);
    else this.failed = true;
  }

  private putBigEndian(value: u64, bytes: i32): void {
    while (bytes-- > 0) this.put(<u8>(value >> (8 * bytes)));
  }

  private head(major: u8, value: u64): void {
    const top: u8 = major << 5;
    if (value < 24) {
      this.put(top | <u8>value);
      return;
    }
    const size = value <= 0xff ? 0 : value <= 0xffff ? 1 : value <= 0xffffffff ? 2 : 3;
    this.put(top | <u8>(24 + size));
    this.putBigEndian(value, 1 << size);
  }

  /** `pairs` keys and values follow, each key with text(). */
  map(pairs: i32): void {
    this.head(5, pairs);
  }

  array(items: i32): void {
    this.head(4, items);
  }

  uint(value: u64): void {
    this.head(0, value);
  }

  int(value: i64): void {
    if (value < 0) this.head(1, <u64>~value);
    else this.head(0, <u64>value);
  }

  /** What is not finite becomes null: emit() takes no such number. */
  float(value: f64): void {
    if (!isFinite(value)) {
      this.null();
      return;
    }
    this.put(0xfb);
    this.putBigEndian(reinterpret<u64>(value), 8);
  }

  null(): void {
    this.put(0xf6);
  }

  bool(value: bool): void {
    this.put(value ? 0xf5 : 0xf4);
  }

  /** Up to 341 characters; longer text is cut off. */
  text(value: string): void {
    this.textOf(line, encodeLine(value));
  }

  /** Text that is already there as UTF-8, such as what Reader.text() found. */
  textOf(ptr: usize, bytes: i32): void {
    this.head(3, bytes);
    for (let i = 0; i < bytes; i++) this.put(load<u8>(ptr + i));
  }

  pairFloat(key: string, value: f64): void {
    this.text(key);
    this.float(value);
  }

  pairInt(key: string, value: i64): void {
    this.text(key);
    this.int(value);
  }

  pairText(key: string, value: string): void {
    this.text(key);
    this.text(value);
  }
}

/** Major types. */
export const UINT: i32 = 0;
export const NEGATIVE: i32 = 1;
export const BYTES: i32 = 2;
export const TEXT: i32 = 3;
export const ARRAY: i32 = 4;
export const MAP: i32 = 5;
export const TAG: i32 = 6;
export const OTHER: i32 = 7;

/**
 * CBOR from memory, never past the end. After a failure everything reads as 0 and `failed` stays set. A string is left
 * in place: it begins at `start` and has the size that the method returned.
 */
export class Reader {
  at: usize = 0;
  end: usize = 0;
  start: usize = 0;
  failed: bool = false;
  private major: i32 = -1;
  private info: i32 = 0;

  /** Reads from `bytes` bytes at `ptr`. */
  reset(ptr: usize, bytes: i32): void {
    this.at = ptr;
    this.end = ptr + bytes;
    this.failed = false;
  }

  private fail(): u64 {
    this.failed = true;
    this.at = this.end;
    return 0;
  }

  /** The major type of the next item, or -1 at the end. */
  peek(): i32 {
    return this.at < this.end ? <i32>load<u8>(this.at) >> 5 : -1;
  }

  private head(): u64 {
    this.major = -1;
    if (this.at >= this.end) return this.fail();
    const initial: i32 = load<u8>(this.at++);
    this.major = initial >> 5;
    this.info = initial & 31;
    if (this.info < 24) return this.info;
    if (this.info > 27) return this.fail();
    let width = 1 << (this.info - 24);
    if (this.end - this.at < <usize>width) return this.fail();
    let value: u64 = 0;
    while (width-- > 0) value = (value << 8) | load<u8>(this.at++);
    return value;
  }

  private expect(major: i32): u64 {
    const value = this.head();
    return this.major == major ? value : this.fail();
  }

  private string(major: i32): i32 {
    const size = this.expect(major);
    if (size > <u64>(this.end - this.at)) return <i32>this.fail();
    this.start = this.at;
    this.at += <usize>size;
    return <i32>size;
  }

  bytes(): i32 {
    return this.string(BYTES);
  }

  text(): i32 {
    return this.string(TEXT);
  }

  uint(): u64 {
    return this.expect(UINT);
  }

  /** Enters a map or an array and returns how many pairs or items follow. */
  enter(major: i32): i32 {
    const items = this.expect(major);
    return items > <u64>(this.end - this.at) ? <i32>this.fail() : <i32>items;
  }

  /** An integer or a float of any width. */
  number(): f64 {
    const bits = this.head();
    if (this.major == UINT) return <f64>bits;
    if (this.major == NEGATIVE) return bits == u64.MAX_VALUE ? -18446744073709551616.0 : -<f64>(bits + 1);
    if (this.major == OTHER && this.info == 27) return reinterpret<f64>(bits);
    if (this.major == OTHER && this.info == 26) return reinterpret<f32>(<u32>bits);
    if (this.major != OTHER || this.info != 25) return <f64>this.fail();
    const exponent = (bits >> 10) & 31, fraction = bits & 1023;
    const value = exponent == 0
      ? <f64>fraction * 5.9604644775390625e-8
      : reinterpret<f64>(((exponent == 31 ? 2047 : exponent + 1008) << 52) | (fraction << 42));
    return bits & 0x8000 ? -value : value;
  }

  /** Skips one whole item, however deep, in time linear in its bytes. */
  skip(): void {
    for (let items: u64 = 1; items > 0 && !this.failed; items--) {
      const value = this.head();
      if (this.failed) return;
      const left = <u64>(this.end - this.at);
      if (this.major == BYTES || this.major == TEXT) {
        if (value > left) this.fail();
        else this.at += <usize>value;
      } else if (this.major == TAG) {
        items++;
      } else if (this.major == ARRAY || this.major == MAP) {
        if (value > left) this.fail();
        else items += this.major == MAP ? 2 * value : value;
      }
    }
  }

  /** Whether the string just read is `text`, which is ASCII. */
  is(size: i32, text: string): bool {
    if (size != text.length) return false;
    for (let i = 0; i < size; i++) {
      if (load<u8>(this.start + i) != load<u16>(changetype<usize>(text) + (i << 1))) return false;
    }
    return true;
  }

  /** Goes to the value of `key` in the map at `map`; false if it is not there. */
  find(map: usize, key: string): bool {
    this.at = map;
    for (let pairs = this.enter(MAP); pairs > 0 && !this.failed; pairs--) {
      const size = this.text();
      if (!this.failed && this.is(size, key)) return true;
      this.skip();
    }
    return false;
  }

  /** Reads a meter frame's levels, int16 of hundredths of a dB (tag 77), and returns how many; level() has them. */
  levels(): i32 {
    if (this.expect(TAG) != 77) this.fail();
    return this.bytes() >> 1;
  }

  /** Level `channel` of the array at `start`, in dB; NaN where there is no value. */
  level(start: usize, channel: i32): f64 {
    const value = load<i16>(start + (channel << 1));
    return value == i16.MIN_VALUE ? NaN : <f64>value / 100.0;
  }
}
