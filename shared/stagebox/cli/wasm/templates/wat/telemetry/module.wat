;; @NAME@: counts meter frames and says so every 20, as a record of its own.
(module
  (import "stagebox" "log" (func $log (param i32 i32 i32)))
  (import "stagebox" "emit" (func $emit (param i32 i32 i32 i32) (result i32)))

  (memory (export "memory") 1 1)
  (data (i32.const 16) "ready")
  (data (i32.const 32) "count")
  ;; The CBOR map {"frames": uint32}; the number is written behind its head, big-endian.
  (data (i32.const 48) "\a1\66frames\1a\00\00\00\00")
  (global $number i32 (i32.const 57))
  (global $record_bytes i32 (i32.const 13))
  (global $input i32 (i32.const 1024))
  (global $frames (mut i32) (i32.const 0))

  (func (export "init") (param $rate i32) (param $channels i32) (param $max_frames i32) (result i32)
    (global.set $frames (i32.const 0))
    (call $log (i32.const 1) (i32.const 16) (i32.const 5))
    (i32.const 0))

  ;; The host writes each record here: its subject, then its CBOR.
  (func (export "record_ptr") (result i32) (global.get $input))
  (func (export "record_capacity") (result i32) (i32.const 32768))

  (func (export "record") (param $kind i32) (param $subject_bytes i32) (param $record_bytes i32) (result i32)
    ;; 1 is a meter frame.
    (if (i32.ne (local.get $kind) (i32.const 1)) (then (return (i32.const 0))))
    (global.set $frames (i32.add (global.get $frames) (i32.const 1)))
    (if (i32.rem_u (global.get $frames) (i32.const 20)) (then (return (i32.const 0))))
    (i32.store8 (global.get $number) (i32.shr_u (global.get $frames) (i32.const 24)))
    (i32.store8 offset=1 (global.get $number) (i32.shr_u (global.get $frames) (i32.const 16)))
    (i32.store8 offset=2 (global.get $number) (i32.shr_u (global.get $frames) (i32.const 8)))
    (i32.store8 offset=3 (global.get $number) (global.get $frames))
    (drop (call $emit (i32.const 32) (i32.const 5) (i32.const 48) (global.get $record_bytes)))
    (i32.const 0)))
