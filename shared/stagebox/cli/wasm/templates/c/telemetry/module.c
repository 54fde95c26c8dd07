/* @NAME@: the loudest peak of every 20 meter frames, as a record of its own. */
#include "stagebox.h"

enum { FRAMES_A_RECORD = 20 };

static uint8_t input[32768], output[64];
static int32_t frames;
static double loudest;

int32_t init(int32_t rate, int32_t channels, int32_t max_frames) {
    (void)rate, (void)channels, (void)max_frames;
    frames = 0;
    loudest = -150.0;
    sb_log(STAGEBOX_INFO, "@NAME@ is ready");
    return STAGEBOX_READY;
}

/* The host writes each record here: its subject, then its CBOR. */
uint8_t *record_ptr(void) { return input; }
int32_t record_capacity(void) { return sizeof input; }

int32_t record(int32_t kind, int32_t subject_bytes, int32_t record_bytes) {
    if (kind != STAGEBOX_METER) return 0;
    sb_reader frame = sb_read_from(input + subject_bytes, (uint32_t)record_bytes), peaks;
    if (!sb_find(&frame, "peak", &peaks)) return 0;
    sb_bytes levels = sb_read_levels(&peaks);
    for (uint32_t channel = 0; channel < levels.length / 2; channel++) {
        double level = sb_level(levels, channel);
        if (level > loudest) loudest = level;
    }
    if (++frames < FRAMES_A_RECORD) return 0;
    sb_writer data = sb_write_to(output, sizeof output);
    sb_map(&data, 1);
    sb_pair_float(&data, "peak_dbfs", loudest);
    sb_emit("loudest", &data);
    frames = 0;
    loudest = -150.0;
    return 0;
}
