;; @NAME@: a linear gain without clicks, in place.
(module
  (import "stagebox" "log" (func $log (param i32 i32 i32)))

  ;; 16 pages of 64 KiB: 261,888 samples, which is 68 channels of 20 ms at 192 kHz, above one KiB for the text.
  (memory (export "memory") 16 16)
  (data (i32.const 16) "ready")
  (global $buffer i32 (i32.const 1024))
  (global $room i32 (i32.const 261888))
  (global $channels (mut i32) (i32.const 0))
  (global $stride (mut i32) (i32.const 0))
  (global $gain (mut f32) (f32.const 1))
  (global $target (mut f32) (f32.const 1))

  (func (export "init") (param $rate i32) (param $channels i32) (param $max_frames i32) (result i32)
    ;; 1 refuses.
    (if (i32.gt_u (i32.mul (local.get $channels) (local.get $max_frames)) (global.get $room))
      (then (return (i32.const 1))))
    (global.set $channels (local.get $channels))
    (global.set $stride (local.get $max_frames))
    (call $log (i32.const 1) (i32.const 16) (i32.const 5))
    (i32.const 0))

  (func (export "param") (param $id i32) (param $value f32) (result i32)
    (if (local.get $id) (then (return (i32.const 1))))
    (global.set $target (local.get $value))
    (i32.const 0))

  ;; The host writes here and reads here.
  (func (export "in_ptr") (result i32) (global.get $buffer))
  (func (export "out_ptr") (result i32) (global.get $buffer))

  ;; A new gain is reached over one block, in a straight line.
  (func (export "process") (param $frames i32) (result i32)
    (local $channel i32) (local $at i32) (local $end i32) (local $gain f32) (local $step f32)
    (local.set $step
      (f32.div (f32.sub (global.get $target) (global.get $gain)) (f32.convert_i32_s (local.get $frames))))
    (block $done
      (loop $next_channel
        (br_if $done (i32.ge_s (local.get $channel) (global.get $channels)))
        (local.set $at
          (i32.add (global.get $buffer)
            (i32.shl (i32.mul (local.get $channel) (global.get $stride)) (i32.const 2))))
        (local.set $end (i32.add (local.get $at) (i32.shl (local.get $frames) (i32.const 2))))
        (local.set $gain (global.get $gain))
        (loop $next_sample
          (if (i32.lt_u (local.get $at) (local.get $end))
            (then
              (local.set $gain (f32.add (local.get $gain) (local.get $step)))
              (f32.store (local.get $at) (f32.mul (f32.load (local.get $at)) (local.get $gain)))
              (local.set $at (i32.add (local.get $at) (i32.const 4)))
              (br $next_sample))))
        (local.set $channel (i32.add (local.get $channel) (i32.const 1)))
        (br $next_channel)))
    (global.set $gain (global.get $target))
    (local.get $frames)))
