// Sound level of one channel: A and C weighting, Fast and Slow, Leq and peak, a record an interval. README.md has the
// fields and the parameters.
import { READY, REFUSED, Writer, emit } from "stagebox";
import { Section, design } from "./weighting";

const MAX_CHANNELS: i32 = 64;
const MAX_FRAMES: i32 = 3840;
const RECORD: i32 = 256;
const CHANNEL: i32 = 0;
const CALIBRATION: i32 = 1;
const INTERVAL: i32 = 2;
const SILENT: f64 = 1e-15; // −150 dB
const FAST_S: f64 = 0.125;
const SLOW_S: f64 = 1.0;
const FULL_SCALE: f32 = 1.0 - 1.0 / 32768.0;

const audio: usize = memory.data(MAX_CHANNELS * MAX_FRAMES * 4, 8);
const writer = new Writer(memory.data(RECORD), RECORD);
const low = new Section();
const high = new Section();
const rest = new Section();

let rate: f64 = 0.0;
let channels: i32 = 0;
let stride: i32 = 0;
let channel: i32 = 0;
let calibration: f64 = 0.0;
let seconds: f64 = 1.0;

// Time weightings, of A: mean squares that run on from interval to interval.
let toFast: f64 = 0.0;
let toSlow: f64 = 0.0;
let fast: f64 = 0.0;
let slow: f64 = 0.0;

// The interval that is on.
let interval: i32 = 0;
let heard: i32 = 0;
let clipped: i32 = 0;
let sumA: f64 = 0.0;
let sumC: f64 = 0.0;
let peakC: f64 = 0.0;
let maxFast: f64 = 0.0;
let maxSlow: f64 = 0.0;

export function init(rateHz: i32, channelCount: i32, maxFrames: i32): i32 {
  if (rateHz < 8000 || rateHz > 192000) return REFUSED;
  if (channelCount < 1 || channelCount > MAX_CHANNELS || maxFrames < 1 || maxFrames > MAX_FRAMES) return REFUSED;
  rate = rateHz;
  channels = channelCount;
  stride = maxFrames;
  design(low, high, rest, rate);
  toFast = 1.0 - Math.exp(-1.0 / (FAST_S * rate));
  toSlow = 1.0 - Math.exp(-1.0 / (SLOW_S * rate));
  interval = <i32>Math.round(seconds * rate);
  return READY;
}

export function in_ptr(): usize {
  return audio;
}

export function out_ptr(): usize {
  return audio;
}

export function param(id: i32, value: f32): i32 {
  if (id == CHANNEL && value >= 1.0 && value <= <f32>channels && value == Mathf.floor(value)) {
    channel = <i32>value - 1;
    return 0;
  }
  if (id == CALIBRATION && value >= -100.0 && value <= 250.0) {
    calibration = value;
    return 0;
  }
  if (id == INTERVAL && value >= 0.1 && value <= 3600.0) {
    seconds = value;
    interval = <i32>Math.round(seconds * rate);
    return 0;
  }
  return 1;
}

function level(power: f64): f64 {
  return 10.0 * Math.log10(Math.max(power, SILENT)) + calibration;
}

/** `end` is where the interval ended, in frames from the beginning of the block. */
function tell(end: i32): void {
  writer.reset();
  writer.map(11);
  writer.pairFloat("LAeq", level(sumA / heard));
  writer.pairFloat("LCeq", level(sumC / heard));
  writer.pairFloat("LAF", level(fast));
  writer.pairFloat("LAS", level(slow));
  writer.pairFloat("LAFmax", level(maxFast));
  writer.pairFloat("LASmax", level(maxSlow));
  writer.pairFloat("LCpeak", level(peakC * peakC));
  writer.pairInt("channel", channel + 1);
  writer.pairInt("frames", heard);
  writer.pairInt("end_after", end);
  writer.pairInt("clipped", clipped);
  emit("leq", writer);
}

function begin(): void {
  heard = 0;
  clipped = 0;
  sumA = 0.0;
  sumC = 0.0;
  peakC = 0.0;
  maxFast = 0.0;
  maxSlow = 0.0;
}

function hear(sample: f32): void {
  // What is no number would stay in the filters for ever.
  const x: f64 = isFinite(sample) ? <f64>sample : 0.0;
  if (Mathf.abs(sample) >= FULL_SCALE) clipped++;
  const c = high.run(low.run(x));
  const a = rest.run(c);
  sumC += c * c;
  sumA += a * a;
  peakC = Math.max(peakC, Math.abs(c));
  fast += (a * a - fast) * toFast;
  slow += (a * a - slow) * toSlow;
  maxFast = Math.max(maxFast, fast);
  maxSlow = Math.max(maxSlow, slow);
  heard++;
}

export function process(frames: i32): i32 {
  if (frames < 1 || frames > stride) return 0;
  const from = audio + ((channel * stride) << 2);
  for (let n = 0; n < frames; n++) {
    hear(load<f32>(from + (n << 2)));
    if (heard < interval) continue;
    tell(n + 1);
    begin();
  }
  low.settle();
  high.settle();
  rest.settle();
  if (fast < 1e-30) fast = 0.0;
  if (slow < 1e-30) slow = 0.0;
  return frames;
}
