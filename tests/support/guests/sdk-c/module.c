/* Says what the C header's reader finds and writes a value of every kind: tests/conformance/modules/test_sdk.py. */
#include <stagebox.h>
#include <stagebox_math.h>

enum { WRITE = 101, NUMBER = 102, SKIP = 103, FULL = 104 };

static uint8_t input[32768], output[512];

int32_t init(int32_t rate, int32_t channels, int32_t max_frames) {
    sb_log(STAGEBOX_WARNING, "ready \xe2\x80\x94 \xc3\xa9");
    return rate == 0 && channels == 0 && max_frames == 0 ? STAGEBOX_READY : STAGEBOX_REFUSED;
}

uint8_t *record_ptr(void) { return input; }
int32_t record_capacity(void) { return sizeof input; }

static int32_t meter(const sb_reader *frame) {
    sb_reader value;
    sb_writer w = sb_write_to(output, sizeof output);
    if (!sb_find(frame, "peak", &value)) return 1;
    sb_bytes levels = sb_read_levels(&value);
    if (value.failed) return 2;
    sb_map(&w, 5);
    sb_pair_int(&w, "channels", levels.length / 2);
    sb_text(&w, "peaks"), sb_array(&w, levels.length / 2);
    for (uint32_t n = 0; n < levels.length / 2; n++) sb_float(&w, sb_level(levels, n));
    if (!sb_find(frame, "start", &value)) return 3;
    sb_pair_int(&w, "start", (int64_t)sb_read_uint(&value));
    if (!sb_find(frame, "boot", &value)) return 4;
    sb_pair_int(&w, "boot_bytes", sb_read_bytes(&value).length);
    sb_pair_int(&w, "missing", sb_find(frame, "nothing", &value));
    return sb_emit("meter", &w);
}

static int32_t event(const sb_reader *record, sb_bytes subject) {
    sb_reader value, detail;
    sb_writer w = sb_write_to(output, sizeof output);
    if (!sb_find(record, "event", &value)) return 1;
    sb_bytes name = sb_read_text(&value);
    if (!sb_find(record, "detail", &detail) || !sb_find(&detail, "gain", &value)) return 2;
    sb_map(&w, 3);
    sb_text(&w, "name"), sb_text_of(&w, name.data, name.length);
    sb_text(&w, "subject"), sb_text_of(&w, subject.data, subject.length);
    sb_pair_float(&w, "gain", sb_read_number(&value));
    return sb_emit("event", &w);
}

static int32_t write(void) {
    static const int64_t INTEGERS[] = {0, 23, 24, 255, 256, 65535, 65536, 4294967295, 4294967296, INT64_MAX,
                                       -1, -24, -25, -256, -257, -65536, -65537, INT64_MIN};
    sb_writer w = sb_write_to(output, sizeof output);
    sb_map(&w, 6);
    sb_text(&w, "integers"), sb_array(&w, sizeof INTEGERS / sizeof *INTEGERS);
    for (uint32_t n = 0; n < sizeof INTEGERS / sizeof *INTEGERS; n++) sb_int(&w, INTEGERS[n]);
    sb_text(&w, "largest"), sb_uint(&w, UINT64_MAX);
    sb_text(&w, "floats"), sb_array(&w, 2), sb_float(&w, -0.1), sb_float(&w, 1e300);
    sb_text(&w, "truth"), sb_array(&w, 2), sb_bool(&w, 1), sb_bool(&w, 0);
    sb_pair_text(&w, "text", "twenty-four characters, \xc3\xa9");
    sb_pair_int(&w, "now", stagebox_now());
    return sb_emit("written", &w);
}

static int32_t number(const sb_reader *record) {
    sb_reader value;
    sb_writer w = sb_write_to(output, sizeof output);
    int found = sb_find(record, "x", &value);
    double x = found ? sb_read_number(&value) : 0.0;
    sb_map(&w, 3);
    sb_text(&w, "found"), sb_bool(&w, found);
    sb_text(&w, "failed"), sb_bool(&w, value.failed);
    sb_pair_float(&w, "x", x);
    return sb_emit("number", &w);
}

static int32_t skip(sb_reader record) {
    sb_writer w = sb_write_to(output, sizeof output);
    sb_skip(&record);
    sb_map(&w, 2);
    sb_text(&w, "failed"), sb_bool(&w, record.failed);
    sb_pair_int(&w, "left", sb_left(&record));
    return sb_emit("skipped", &w);
}

static int32_t full(void) {
    sb_writer w = sb_write_to(output, 12);
    sb_map(&w, 1);
    sb_pair_text(&w, "key", "this does not fit");
    return sb_emit("full", &w);
}

int32_t record(int32_t kind, int32_t subject_bytes, int32_t record_bytes) {
    sb_reader found = sb_read_from(input + subject_bytes, (uint32_t)record_bytes);
    sb_bytes subject = {input, (uint32_t)subject_bytes};
    switch (kind) {
    case STAGEBOX_METER: return meter(&found);
    case STAGEBOX_EVENT: return event(&found, subject);
    case WRITE: return write();
    case NUMBER: return number(&found);
    case SKIP: return skip(found);
    case FULL: return full();
    default: return 99;
    }
}

STAGEBOX_EXPORT(math) double math(int32_t function, double x);
double math(int32_t function, double x) {
    switch (function) {
    case 0: return sb_exp(x);
    case 1: return sb_ln(x);
    case 2: return sb_sin(x);
    case 3: return sb_cos(x);
    case 4: return sb_from_db(x);
    case 5: return sb_db(x);
    case 6: return sb_power_db(x);
    default: return sb_is_finite(x);
    }
}
