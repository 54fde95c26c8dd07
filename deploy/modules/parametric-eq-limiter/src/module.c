/* Parametric equaliser of eight bands, then a look-ahead limiter over all channels. README.md has the parameters. */
#include <stagebox.h>

#include "biquad.h"
#include "limiter.h"

enum { MAX_CHANNELS = 64, MAX_FRAMES = 3840, BANDS = 8, IDS_A_BAND = 10 };
enum { TYPE, FREQUENCY, GAIN, Q, BAND_FIELDS }; /* id of a band's parameter: 10 * band + field */
enum { CEILING = 100, RELEASE = 101, OUTPUT = 102 };
static const double AHEAD_S = 0.005, LARGEST = 1e30;

static float audio[MAX_CHANNELS * MAX_FRAMES];
static float ahead[MAX_CHANNELS * MAX_AHEAD];
static double work[MAX_FRAMES], peaks[MAX_FRAMES], gains[MAX_FRAMES];

static struct {
    double value[BAND_FIELDS];
    biquad now, next;
    int moves;
    biquad_state state[MAX_CHANNELS];
} bands[BANDS];

static double rate, release_ms, output_db;
static int32_t channels, stride, ahead_at, running;
static float ceiling, lowered_from; /* the limit of what came in before a lower ceiling */
static int32_t lowered_left;

static const biquad THROUGH = {1.0, 0.0, 0.0, 0.0, 0.0};

int32_t init(int32_t rate_hz, int32_t channel_count, int32_t max_frames) {
    if (rate_hz < 8000 || rate_hz > 192000) return STAGEBOX_REFUSED;
    if (channel_count < 1 || channel_count > MAX_CHANNELS || max_frames < 1 || max_frames > MAX_FRAMES)
        return STAGEBOX_REFUSED;
    rate = rate_hz, channels = channel_count, stride = max_frames;
    for (int band = 0; band < BANDS; band++) {
        bands[band].value[FREQUENCY] = 1000.0, bands[band].value[Q] = 0.7071;
        bands[band].now = bands[band].next = THROUGH;
    }
    limiter_start((int32_t)(AHEAD_S * rate));
    ceiling = (float)sb_from_db(-1.0);
    release_ms = 100.0;
    return STAGEBOX_READY;
}

float *in_ptr(void) { return audio; }
float *out_ptr(void) { return audio; }

static int band_param(int band, int field, double value) {
    if (field == TYPE && (value < OFF || value >= TYPES || value != __builtin_floor(value))) return 0;
    if (field == FREQUENCY && (value < 10.0 || value > 24000.0)) return 0;
    if (field == GAIN && (value < -24.0 || value > 24.0)) return 0;
    if (field == Q && (value < 0.1 || value > 30.0)) return 0;
    bands[band].value[field] = value;
    const double *set = bands[band].value;
    /* What a lower rate cannot have is as close to its half as makes sense. */
    double hz = set[FREQUENCY] < 0.49 * rate ? set[FREQUENCY] : 0.49 * rate;
    bands[band].next = biquad_design((int)set[TYPE], rate, hz, set[GAIN], set[Q]);
    bands[band].moves = running;
    if (!running) bands[band].now = bands[band].next;
    return 1;
}

static void set_ceiling(double db) {
    float limit = (float)sb_from_db(db);
    if (running && limit < ceiling) {
        lowered_from = lowered_left > 0 && lowered_from > ceiling ? lowered_from : ceiling;
        lowered_left = limiter.ahead;
    }
    ceiling = limit;
}

int32_t param(int32_t id, float value) {
    if (!sb_is_finite((double)value)) return 1;
    if (id >= 0 && id < IDS_A_BAND * BANDS && id % IDS_A_BAND < BAND_FIELDS)
        return !band_param(id / IDS_A_BAND, id % IDS_A_BAND, (double)value);
    if (id == CEILING && value >= -40.0f && value <= 0.0f) return set_ceiling((double)value), 0;
    if (id == RELEASE && value >= 1.0f && value <= 5000.0f) return release_ms = (double)value, 0;
    if (id == OUTPUT && value >= -24.0f && value <= 24.0f) return output_db = (double)value, 0;
    return 1;
}

/* Reads a channel into `work`; what is no number is silence, so that it does not stay in the filters. */
static void take(const float *from, double gain, int32_t frames) {
    for (int32_t n = 0; n < frames; n++) work[n] = sb_is_finite((double)from[n]) ? gain * (double)from[n] : 0.0;
}

static void equalise(int32_t channel, int32_t frames) {
    for (int band = 0; band < BANDS; band++) {
        biquad_state *state = &bands[band].state[channel];
        if (bands[band].moves) biquad_glide(bands[band].now, bands[band].next, state, work, frames);
        else if (bands[band].value[TYPE] != OFF) biquad_run(bands[band].now, state, work, frames);
    }
}

/* A band that was switched off forgets what it heard: it must not come out when it is switched on again. */
static void settle(int band) {
    static const biquad_state QUIET = {0.0, 0.0};
    if (bands[band].moves && bands[band].value[TYPE] == OFF)
        for (int32_t c = 0; c < channels; c++) bands[band].state[c] = QUIET;
    bands[band].now = bands[band].next, bands[band].moves = 0;
}

/* Writes `work` back to the channel and gathers the highest of all channels, frame by frame. */
static void put(float *to, int32_t frames) {
    for (int32_t n = 0; n < frames; n++) {
        double x = work[n] < -LARGEST ? -LARGEST : work[n] > LARGEST ? LARGEST : work[n];
        to[n] = (float)x;
        double level = __builtin_fabs((double)to[n]);
        if (level > peaks[n]) peaks[n] = level;
    }
}

/* Frames in and delayed, louder frames out. Rounding to float32 may end one step above the ceiling: that is cut. */
static void limit(float *channel, float *delayed, int32_t frames) {
    int32_t at = ahead_at, before = lowered_left;
    for (int32_t n = 0; n < frames; n++) {
        float top = n < before && lowered_from > ceiling ? lowered_from : ceiling;
        float out = (float)(gains[n] * (double)delayed[at]);
        delayed[at] = channel[n];
        channel[n] = out < -top ? -top : out > top ? top : out;
        if (++at == limiter.ahead) at = 0;
    }
}

int32_t process(int32_t frames) {
    if (frames < 1 || frames > stride) return 0;
    double gain = sb_from_db(output_db);
    for (int32_t n = 0; n < frames; n++) peaks[n] = 0.0;
    for (int32_t c = 0; c < channels; c++) {
        take(audio + c * stride, gain, frames);
        equalise(c, frames);
        put(audio + c * stride, frames);
    }
    for (int band = 0; band < BANDS; band++) settle(band);
    limiter.ceiling = (double)ceiling;
    limiter.release = 1.0 - sb_exp(-1000.0 / (release_ms * rate));
    for (int32_t n = 0; n < frames; n++) gains[n] = limiter_gain(peaks[n]);
    for (int32_t c = 0; c < channels; c++) limit(audio + c * stride, ahead + c * MAX_AHEAD, frames);
    ahead_at = (ahead_at + frames) % limiter.ahead;
    lowered_left = lowered_left > frames ? lowered_left - frames : 0;
    running = 1;
    return frames;
}
