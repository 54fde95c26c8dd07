// Says what the definitions' reader finds and writes a value of every kind: for tests/conformance/modules/test_sdk.py.
import { EVENT, LOG_WARNING, METER, MAP, READY, REFUSED, Reader, Writer, emit, log, now } from "stagebox";

const WRITE: i32 = 101;
const NUMBER: i32 = 102;
const SKIP: i32 = 103;
const FULL: i32 = 104;
const INPUT: i32 = 32768;
const OUTPUT: i32 = 512;

const input: usize = memory.data(INPUT);
const output: usize = memory.data(OUTPUT);
const r = new Reader();
const w = new Writer(output, OUTPUT);
const small = new Writer(output, 12);

export function init(rate: i32, channels: i32, maxFrames: i32): i32 {
  log(LOG_WARNING, "ready — é");
  return rate == 0 && channels == 0 && maxFrames == 0 ? READY : REFUSED;
}

export function record_ptr(): usize {
  return input;
}

export function record_capacity(): i32 {
  return INPUT;
}

function meter(frame: usize): i32 {
  if (!r.find(frame, "peak")) return 1;
  const channels = r.levels();
  const levels = r.start;
  if (r.failed) return 2;
  w.reset();
  w.map(5);
  w.pairInt("channels", channels);
  w.text("peaks");
  w.array(channels);
  for (let n = 0; n < channels; n++) w.float(r.level(levels, n));
  if (!r.find(frame, "start")) return 3;
  w.pairInt("start", <i64>r.uint());
  if (!r.find(frame, "boot")) return 4;
  w.pairInt("boot_bytes", r.bytes());
  w.pairInt("missing", r.find(frame, "nothing") ? 1 : 0);
  return emit("meter", w);
}

function event(record: usize, subjectBytes: i32): i32 {
  if (!r.find(record, "event")) return 1;
  const size = r.text();
  const name = r.start;
  if (!r.find(record, "detail") || r.peek() != MAP || !r.find(r.at, "gain")) return 2;
  w.reset();
  w.map(3);
  w.text("name");
  w.textOf(name, size);
  w.text("subject");
  w.textOf(input, subjectBytes);
  w.pairFloat("gain", r.number());
  return emit("event", w);
}

const INTEGERS: StaticArray<i64> = [
  0, 23, 24, 255, 256, 65535, 65536, 4294967295, 4294967296, i64.MAX_VALUE,
  -1, -24, -25, -256, -257, -65536, -65537, i64.MIN_VALUE,
];

function write(): i32 {
  w.reset();
  w.map(6);
  w.text("integers");
  w.array(INTEGERS.length);
  for (let n = 0; n < INTEGERS.length; n++) w.int(INTEGERS[n]);
  w.text("largest");
  w.uint(u64.MAX_VALUE);
  w.text("floats");
  w.array(2);
  w.float(-0.1);
  w.float(1e300);
  w.text("truth");
  w.array(2);
  w.bool(true);
  w.bool(false);
  w.pairText("text", "twenty-four characters, é");
  w.pairInt("now", now());
  return emit("written", w);
}

function number(record: usize): i32 {
  const found = r.find(record, "x");
  const x = found ? r.number() : 0.0;
  w.reset();
  w.map(3);
  w.text("found");
  w.bool(found);
  w.text("failed");
  w.bool(r.failed);
  w.pairFloat("x", x);
  return emit("number", w);
}

function skip(): i32 {
  r.skip();
  w.reset();
  w.map(2);
  w.text("failed");
  w.bool(r.failed);
  w.pairInt("left", r.end - r.at);
  return emit("skipped", w);
}

function full(): i32 {
  small.reset();
  small.map(1);
  small.pairText("key", "this does not fit");
  return emit("full", small);
}

export function record(kind: i32, subjectBytes: i32, recordBytes: i32): i32 {
  const at = input + subjectBytes;
  r.reset(at, recordBytes);
  if (kind == METER) return meter(at);
  if (kind == EVENT) return event(at, subjectBytes);
  if (kind == WRITE) return write();
  if (kind == NUMBER) return number(at);
  if (kind == SKIP) return skip();
  if (kind == FULL) return full();
  return 99;
}
