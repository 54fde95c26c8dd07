// @NAME@: a gain in dB without clicks.
import { LOG_INFO, READY, log } from "stagebox";

// Made once, in init: the stub runtime never frees.
let buffer: StaticArray<f32> = new StaticArray<f32>(0);
let channelCount: i32 = 0;
let stride: i32 = 0;
let gain: f32 = 1.0;
let target: f32 = 1.0;

export function init(rate: i32, channels: i32, maxFrames: i32): i32 {
  channelCount = channels;
  stride = maxFrames;
  buffer = new StaticArray<f32>(channels * maxFrames);
  log(LOG_INFO, "@NAME@ is ready");
  return READY;
}

export function param(id: i32, value: f32): i32 {
  if (id != 0) return 1;
  target = Mathf.pow(10.0, value / 20.0);
  return 0;
}

// The host writes here and reads here: in place.
export function in_ptr(): usize {
  return changetype<usize>(buffer);
}

export function out_ptr(): usize {
  return changetype<usize>(buffer);
}

export function process(frames: i32): i32 {
  // A new gain is reached over one block, in a straight line.
  const step: f32 = (target - gain) / <f32>frames;
  for (let channel = 0; channel < channelCount; channel++) {
    const first = channel * stride;
    for (let frame = 0; frame < frames; frame++) {
      buffer[first + frame] *= gain + step * <f32>(frame + 1);
    }
  }
  gain = target;
  return frames;
}
