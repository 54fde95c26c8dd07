/* @NAME@: a gain in dB without clicks. */
#include "stagebox.h"
#include "stagebox_math.h"

enum { MAX_CHANNELS = 64, MAX_FRAMES = 3840 }; /* 20 ms at 192 kHz */

static float buffer[MAX_CHANNELS * MAX_FRAMES];
static int32_t channel_count, stride;
static float gain = 1.0f, target = 1.0f;

int32_t init(int32_t rate, int32_t channels, int32_t max_frames) {
    (void)rate;
    if (channels > MAX_CHANNELS || max_frames > MAX_FRAMES) return STAGEBOX_REFUSED;
    channel_count = channels;
    stride = max_frames;
    sb_log(STAGEBOX_INFO, "@NAME@ is ready");
    return STAGEBOX_READY;
}

int32_t param(int32_t id, float value) {
    if (id != 0) return 1;
    target = (float)sb_exp(value * SB_LN10 / 20.0);
    return 0;
}

/* The host writes here and reads here: in place. */
float *in_ptr(void) { return buffer; }
float *out_ptr(void) { return buffer; }

int32_t process(int32_t frames) {
    /* A new gain is reached over one block, in a straight line. */
    float step = (target - gain) / (float)frames;
    for (int32_t channel = 0; channel < channel_count; channel++) {
        float *samples = buffer + channel * stride;
        for (int32_t frame = 0; frame < frames; frame++) samples[frame] *= gain + step * (float)(frame + 1);
    }
    gain = target;
    return frames;
}
