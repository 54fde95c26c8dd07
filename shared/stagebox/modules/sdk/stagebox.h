/* Stagebox module ABI, version 1, for C: docs/reference/module-abi.md has the same to the byte.
 *
 * Define the exports your module's capabilities ask for; the compiler then checks their types. An import ends up in the
 * file only if you call it, and then the module needs the capability that grants it. There is no libc here: no
 * allocator, no files; stagebox_math.h has the mathematics. Below the ABI are a CBOR writer, for emit(), and a bounded
 * CBOR reader, for record().
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef STAGEBOX_H
#define STAGEBOX_H

#include <stddef.h>
#include <stdint.h>

#define STAGEBOX_ABI 1

#define STAGEBOX_EXPORT(name) __attribute__((export_name(#name)))
#define STAGEBOX_IMPORT(name) __attribute__((import_module("stagebox"), import_name(#name)))

/* ---- exports: define those you need -------------------------------------------------------------------------- */

enum { STAGEBOX_READY = 0, STAGEBOX_REFUSED = 1 };

/* Called once before anything else: sample rate in Hz, channels, frames of the longest block (all 0 for a module that
 * has only telemetry). Return STAGEBOX_READY; anything else refuses, and the module is not run. */
STAGEBOX_EXPORT(init) int32_t init(int32_t rate, int32_t channels, int32_t max_frames);

/* Called last, if it is there. */
STAGEBOX_EXPORT(close) void close(void);

/* Sets a parameter: before the first block, and at any time between two blocks. 0 is taken. */
STAGEBOX_EXPORT(param) int32_t param(int32_t id, float value);

/* Capability audio. Planar float32: channel c begins at pointer + c * max_frames floats. Asked once, after init; both
 * may be the same. process() turns `frames` frames of input into as many of output, and returns `frames`. */
STAGEBOX_EXPORT(in_ptr) float *in_ptr(void);
STAGEBOX_EXPORT(out_ptr) float *out_ptr(void);
STAGEBOX_EXPORT(process) int32_t process(int32_t frames);

/* Capability telemetry. The host writes the subject, then the record right behind it, to record_ptr(), never more than
 * record_capacity() bytes together; both are asked once, after init. 0 is taken. */
enum { STAGEBOX_METER = 1, STAGEBOX_EVENT = 2, STAGEBOX_ALERT = 3 };
STAGEBOX_EXPORT(record_ptr) uint8_t *record_ptr(void);
STAGEBOX_EXPORT(record_capacity) int32_t record_capacity(void);
STAGEBOX_EXPORT(record) int32_t record(int32_t kind, int32_t subject_bytes, int32_t record_bytes);

/* ---- imports: each needs its capability ---------------------------------------------------------------------- */

enum { STAGEBOX_DEBUG = 0, STAGEBOX_INFO = 1, STAGEBOX_WARNING = 2, STAGEBOX_ERROR = 3 };
enum { STAGEBOX_TAKEN = 0, STAGEBOX_OVER_RATE = 1, STAGEBOX_MALFORMED = 2 };

/* Capability log: a line of UTF-8 for the rack's log. */
STAGEBOX_IMPORT(log) void stagebox_log(int32_t level, const char *text, int32_t bytes);

/* Capability emit: a record under this module's own subject. `out` is its name there, of a-z, 0-9 and hyphens; `data`
 * is one CBOR map with text keys. */
STAGEBOX_IMPORT(emit) int32_t stagebox_emit(const char *out, int32_t out_bytes, const uint8_t *data, int32_t bytes);

/* Capability clock: ns since the Unix epoch. */
STAGEBOX_IMPORT(now) int64_t stagebox_now(void);

static inline int32_t sb_length(const char *text) {
    int32_t length = 0;
    while (text[length] != '\0') length++;
    return length;
}

/* ---- CBOR writer --------------------------------------------------------------------------------------------- */

/* What does not fit is not written, and `failed` stays set: look at it once, at the end, or leave that to sb_emit(). */
typedef struct {
    uint8_t *data;
    uint32_t capacity, length;
    int failed;
} sb_writer;

static inline sb_writer sb_write_to(uint8_t *data, uint32_t capacity) {
    sb_writer writer = {data, capacity, 0, 0};
    return writer;
}

static inline void sb_put(sb_writer *w, uint8_t byte) {
    if (w->length < w->capacity) w->data[w->length++] = byte;
    else w->failed = 1;
}

static inline void sb_put_big_endian(sb_writer *w, uint64_t value, int bytes) {
    while (bytes-- > 0) sb_put(w, (uint8_t)(value >> (8 * bytes)));
}

static inline void sb_put_head(sb_writer *w, uint8_t major, uint64_t value) {
    uint8_t top = (uint8_t)(major << 5);
    if (value < 24) sb_put(w, (uint8_t)(top | value));
    else if (value <= 0xff) sb_put(w, top | 24), sb_put_big_endian(w, value, 1);
    else if (value <= 0xffff) sb_put(w, top | 25), sb_put_big_endian(w, value, 2);
    else if (value <= 0xffffffffu) sb_put(w, top | 26), sb_put_big_endian(w, value, 4);
    else sb_put(w, top | 27), sb_put_big_endian(w, value, 8);
}

/* A map of `pairs` keys and values follows, each key with sb_text(); an array of `items` values. */
static inline void sb_map(sb_writer *w, uint32_t pairs) { sb_put_head(w, 5, pairs); }
static inline void sb_array(sb_writer *w, uint32_t items) { sb_put_head(w, 4, items); }
static inline void sb_uint(sb_writer *w, uint64_t value) { sb_put_head(w, 0, value); }
static inline void sb_bool(sb_writer *w, int value) { sb_put(w, value ? 0xf5 : 0xf4); }

static inline void sb_int(sb_writer *w, int64_t value) {
    if (value < 0) sb_put_head(w, 1, (uint64_t)(-(value + 1)));
    else sb_put_head(w, 0, (uint64_t)value);
}

static inline void sb_null(sb_writer *w) { sb_put(w, 0xf6); }

/* What is not finite becomes null: emit() takes no such number. */
static inline void sb_float(sb_writer *w, double value) {
    union { double value; uint64_t bits; } both = {value};
    if (value - value != 0.0) {
        sb_null(w);
        return;
    }
    sb_put(w, 0xfb);
    sb_put_big_endian(w, both.bits, 8);
}

/* Text that is already there, such as what sb_read_text() found. */
static inline void sb_text_of(sb_writer *w, const uint8_t *data, uint32_t length) {
    sb_put_head(w, 3, length);
    for (uint32_t i = 0; i < length; i++) sb_put(w, data[i]);
}

static inline void sb_text(sb_writer *w, const char *text) {
    sb_text_of(w, (const uint8_t *)text, (uint32_t)sb_length(text));
}

/* Key and value at once. */
static inline void sb_pair_float(sb_writer *w, const char *key, double value) { sb_text(w, key), sb_float(w, value); }
static inline void sb_pair_int(sb_writer *w, const char *key, int64_t value) { sb_text(w, key), sb_int(w, value); }
static inline void sb_pair_text(sb_writer *w, const char *key, const char *text) { sb_text(w, key), sb_text(w, text); }

/* Macros, so that a module that emits or logs nothing does not import what it was not granted. */
#define sb_emit(out, w) \
    ((w)->failed ? STAGEBOX_MALFORMED : stagebox_emit((out), sb_length(out), (w)->data, (int32_t)(w)->length))
#define sb_log(level, text) stagebox_log((level), (text), sb_length(text))

/* ---- CBOR reader --------------------------------------------------------------------------------------------- */

/* Reads what lies at `at`, never past `end`. After a failure everything reads as 0 and `failed` stays set. Definite
 * lengths only, which is all Stagebox writes. A copy of a reader is a bookmark. */
typedef struct {
    const uint8_t *at, *end;
    int failed;
} sb_reader;

/* A string in place, not terminated. */
typedef struct {
    const uint8_t *data;
    uint32_t length;
} sb_bytes;

enum { SB_UINT, SB_NEGATIVE, SB_BYTES, SB_TEXT, SB_ARRAY, SB_MAP, SB_TAG, SB_OTHER };

static inline sb_reader sb_read_from(const uint8_t *data, uint32_t length) {
    sb_reader reader = {data, data + length, 0};
    return reader;
}

static inline uint32_t sb_left(const sb_reader *r) { return (uint32_t)(r->end - r->at); }

static inline uint64_t sb_fail(sb_reader *r) {
    r->failed = 1;
    r->at = r->end;
    return 0;
}

/* The major type of the item at `at`, or -1 at the end. */
static inline int sb_peek(const sb_reader *r) { return r->at < r->end ? *r->at >> 5 : -1; }

/* Reads an item's head; of a float the argument is its bits. */
static inline uint64_t sb_head(sb_reader *r, int *major, int *info) {
    *major = -1, *info = 0;
    if (r->at >= r->end) return sb_fail(r);
    uint8_t initial = *r->at++;
    *major = initial >> 5, *info = initial & 31;
    if (*info < 24) return (uint64_t)*info;
    if (*info > 27) return sb_fail(r);
    uint32_t width = 1u << (*info - 24);
    if (sb_left(r) < width) return sb_fail(r);
    uint64_t value = 0;
    while (width-- > 0) value = value << 8 | *r->at++;
    return value;
}

static inline uint64_t sb_expect(sb_reader *r, int expected) {
    int major, info;
    uint64_t value = sb_head(r, &major, &info);
    return major == expected ? value : sb_fail(r);
}

static inline sb_bytes sb_read_string(sb_reader *r, int major) {
    uint64_t length = sb_expect(r, major);
    sb_bytes found = {r->at, 0};
    if (length > sb_left(r)) sb_fail(r);
    else found.length = (uint32_t)length, r->at += length;
    return found;
}

static inline sb_bytes sb_read_text(sb_reader *r) { return sb_read_string(r, SB_TEXT); }
static inline sb_bytes sb_read_bytes(sb_reader *r) { return sb_read_string(r, SB_BYTES); }
static inline uint64_t sb_read_uint(sb_reader *r) { return sb_expect(r, SB_UINT); }

static inline int sb_is(sb_bytes found, const char *text) {
    uint32_t i = 0;
    for (; i < found.length; i++)
        if (text[i] == '\0' || (uint8_t)text[i] != found.data[i]) return 0;
    return text[i] == '\0';
}

/* Reads an integer or a float of any width as a double. */
static inline double sb_read_number(sb_reader *r) {
    int major, info;
    uint64_t bits = sb_head(r, &major, &info);
    if (major == SB_UINT) return (double)bits;
    if (major == SB_NEGATIVE) return bits == UINT64_MAX ? -0x1p64 : -(double)(bits + 1);
    union { uint64_t bits; double value; } wide = {bits};
    union { uint32_t bits; float value; } narrow = {(uint32_t)bits};
    if (major == SB_OTHER && info == 27) return wide.value;
    if (major == SB_OTHER && info == 26) return (double)narrow.value;
    if (major != SB_OTHER || info != 25) return (double)sb_fail(r);
    uint32_t exponent = bits >> 10 & 31, fraction = bits & 1023;
    if (exponent == 0) wide.value = fraction * 0x1p-24;
    else wide.bits = (uint64_t)(exponent == 31 ? 2047 : exponent + 1008) << 52 | (uint64_t)fraction << 42;
    return bits & 0x8000 ? -wide.value : wide.value;
}

/* Skips one whole item, however deep, in time linear in its bytes. */
static inline void sb_skip(sb_reader *r) {
    for (uint64_t items = 1; items > 0 && !r->failed; items--) {
        int major, info;
        uint64_t value = sb_head(r, &major, &info);
        if (r->failed) return;
        if (major == SB_BYTES || major == SB_TEXT) {
            if (value > sb_left(r)) sb_fail(r);
            else r->at += value;
        } else if (major == SB_TAG) {
            items++;
        } else if (major == SB_ARRAY || major == SB_MAP) {
            if (value > sb_left(r)) sb_fail(r);
            else items += major == SB_MAP ? 2 * value : value;
        }
    }
}

/* Finds the value of `key` in the map at `map`, which stays where it is; 1 if it is there. */
static inline int sb_find(const sb_reader *map, const char *key, sb_reader *value) {
    *value = *map;
    uint64_t pairs = sb_expect(value, SB_MAP);
    for (; pairs > 0 && !value->failed; pairs--) {
        sb_bytes found = sb_read_text(value);
        if (!value->failed && sb_is(found, key)) return 1;
        sb_skip(value);
    }
    return 0;
}

/* Levels of a meter frame: hundredths of a dB in int16 (tag 77), one a channel. sb_level() of what is not there, or has
 * no value, is NaN. */
static inline sb_bytes sb_read_levels(sb_reader *r) {
    if (sb_expect(r, SB_TAG) != 77) sb_fail(r);
    return sb_read_bytes(r);
}

static inline double sb_level(sb_bytes levels, uint32_t channel) {
    if (channel >= levels.length / 2) return __builtin_nan("");
    int16_t value = (int16_t)(levels.data[2 * channel] | levels.data[2 * channel + 1] << 8);
    return value == INT16_MIN ? __builtin_nan("") : value / 100.0;
}

#endif
