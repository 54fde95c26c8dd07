// @NAME@: the loudest peak of every 20 meter frames, as a record of its own.
import { LOG_INFO, METER, READY, Reader, Writer, emit, log } from "stagebox";

const FRAMES_A_RECORD: i32 = 20;
const INPUT: i32 = 32768;
const OUTPUT: i32 = 64;

// Made once: the stub runtime never frees.
const input: usize = memory.data(INPUT);
const reader = new Reader();
const writer = new Writer(memory.data(OUTPUT), OUTPUT);
let frames: i32 = 0;
let loudest: f64 = -150.0;

export function init(rate: i32, channels: i32, maxFrames: i32): i32 {
  log(LOG_INFO, "@NAME@ is ready");
  return READY;
}

// The host writes each record here: its subject, then its CBOR.
export function record_ptr(): usize {
  return input;
}

export function record_capacity(): i32 {
  return INPUT;
}

export function record(kind: i32, subjectBytes: i32, recordBytes: i32): i32 {
  if (kind != METER) return 0;
  const frame = input + subjectBytes;
  reader.reset(frame, recordBytes);
  if (!reader.find(frame, "peak")) return 0;
  const channels = reader.levels();
  for (let channel = 0; channel < channels; channel++) {
    const level = reader.level(reader.start, channel);
    if (level > loudest) loudest = level;
  }
  if (++frames < FRAMES_A_RECORD) return 0;
  writer.reset();
  writer.map(1);
  writer.pairFloat("peak_dbfs", loudest);
  emit("loudest", writer);
  frames = 0;
  loudest = -150.0;
  return 0;
}
