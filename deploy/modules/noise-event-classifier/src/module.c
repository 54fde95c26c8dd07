/* Finds sounds that stand out of the background and says what kind each is. README.md has the method and parameters. */
#include <stagebox.h>

#include "spectrum.h"

enum { MAX_CHANNELS = 64, MAX_FRAMES = 3840, HOLD = 3 };
enum { CHANNEL, RISE, FALL, LOWEST, FLUX, IMPULSE, TONAL, LONGEST, PARAMS };
static const double LEARN_S = 0.5, FOLLOW_S = 2.0;
static const double RANGE[PARAMS][2] = {
    {0, MAX_CHANNELS}, {3, 60}, {1, 60}, {-120, 0}, {0, 1}, {1, 2000}, {0, 1}, {0.5, 600},
};

static float audio[MAX_CHANNELS * MAX_FRAMES];
static float history[FFT_MOST]; /* the last window; the newer half is filled as samples come */
static uint8_t document[512];

static double setting[PARAMS] = {0, 12, 6, -70, 0.3, 150, 0.1, 10};
static double rate, background, follow, last_flux;
static int32_t channels, stride, filled, windows, learning;
static int64_t block_start; /* frames heard before this block */

/* The event that is on. Positions are counts of frames since init. */
static struct {
    int on;
    int64_t onset, peak_at, last;
    int32_t quiet, windows;
    double peak, top, hz, flux, power, flatness;
    double octave[OCTAVES];
} event;

int32_t init(int32_t rate_hz, int32_t channel_count, int32_t max_frames) {
    if (rate_hz < 8000 || rate_hz > 192000) return STAGEBOX_REFUSED;
    if (channel_count < 1 || channel_count > MAX_CHANNELS || max_frames < 1 || max_frames > MAX_FRAMES)
        return STAGEBOX_REFUSED;
    rate = rate_hz, channels = channel_count, stride = max_frames;
    spectrum_start(rate);
    filled = spectrum.size / 2;
    follow = 1.0 - sb_exp(-filled / (FOLLOW_S * rate));
    learning = (int32_t)(LEARN_S * rate / filled);
    return STAGEBOX_READY;
}

float *in_ptr(void) { return audio; }
float *out_ptr(void) { return audio; }

int32_t param(int32_t id, float value) {
    if (id < 0 || id >= PARAMS) return 1;
    /* The comparison is false for NaN too. */
    if (!((double)value >= RANGE[id][0] && (double)value <= RANGE[id][1])) return 1;
    if (id == CHANNEL && ((int32_t)value > channels || (double)value != __builtin_floor((double)value))) return 1;
    setting[id] = (double)value;
    return 0;
}

static double level(double power) { return sb_power_db(power > SILENT ? power : SILENT); }

/* ---- records ------------------------------------------------------------------------------------------------- */

static const char *kind(int64_t frames, double flatness) {
    if (flatness < setting[TONAL]) return "tonal";
    return (double)frames * 1000.0 <= setting[IMPULSE] * rate ? "impulsive" : "broadband";
}

static void tell(int cut) {
    double flatness = event.power > 0.0 ? event.flatness / event.power : 1.0;
    int64_t frames = event.last - event.onset + 1;
    sb_writer w = sb_write_to(document, sizeof document);
    sb_map(&w, 12);
    sb_pair_text(&w, "class", kind(frames, flatness));
    sb_pair_int(&w, "onset_before", block_start - event.onset);
    sb_pair_int(&w, "peak_before", block_start - event.peak_at);
    sb_pair_int(&w, "frames", frames);
    sb_pair_float(&w, "peak", level(event.peak * event.peak));
    sb_pair_float(&w, "level", level(event.top));
    sb_pair_float(&w, "background", level(background));
    sb_pair_float(&w, "flux", event.flux);
    sb_pair_float(&w, "flatness", flatness);
    sb_pair_float(&w, "hz", event.hz);
    sb_text(&w, "cut"), sb_bool(&w, cut);
    sb_text(&w, "octaves"), sb_array(&w, OCTAVES);
    for (int32_t n = 0; n < OCTAVES; n++) sb_float(&w, level(event.octave[n] / event.windows));
    sb_emit("event", &w);
    event.on = 0;
}

/* ---- the state machine, a window at a time ------------------------------------------------------------------- */

static float highest(void) {
    float top = 0.0f;
    for (int32_t n = 0; n < spectrum.size; n++) {
        float magnitude = __builtin_fabsf(history[n]);
        if (magnitude > top) top = magnitude;
    }
    return top;
}

/* Where in the window the sound begins, or ends: the first and the last sample of at least half the highest. */
static int32_t first_loud(float half) {
    int32_t n = 0;
    while (n < spectrum.size - 1 && __builtin_fabsf(history[n]) < half) n++;
    return n;
}

static int32_t last_loud(float half) {
    int32_t n = spectrum.size - 1;
    while (n > 0 && __builtin_fabsf(history[n]) < half) n--;
    return n;
}

/* Adds a window to the event; `from` is the position of its first sample. */
static void gather(const features *now, int64_t from) {
    float top = highest();
    event.last = from + last_loud(top / 2.0f);
    if ((double)top > event.peak) {
        event.peak = (double)top;
        event.peak_at = from + first_loud(top);
    }
    if (now->power > event.top) {
        event.top = now->power;
        event.hz = spectrum_strongest();
    }
    if (now->flux > event.flux) event.flux = now->flux;
    event.power += now->power;
    event.flatness += now->power * now->flatness;
    event.windows++;
    for (int32_t n = 0; n < OCTAVES; n++) event.octave[n] += spectrum_octave(n);
}

static void begin(const features *now, int64_t from) {
    event.onset = from + first_loud(highest() / 2.0f);
    event.peak = event.top = event.power = event.flatness = event.hz = 0.0;
    event.flux = last_flux;
    event.quiet = event.windows = 0;
    for (int32_t n = 0; n < OCTAVES; n++) event.octave[n] = 0.0;
    event.on = 1;
    gather(now, from);
}

static void go_on(const features *now, int64_t from, double above) {
    double end = setting[FALL] < setting[RISE] ? setting[FALL] : setting[RISE];
    if (above >= end) {
        event.quiet = 0;
        gather(now, from);
        if ((double)(event.last - event.onset) < setting[LONGEST] * rate) return;
        /* What does not end is the new background. */
        tell(1);
        background = now->power;
    } else if (++event.quiet >= HOLD) {
        tell(0);
    }
}

static void listen(int64_t from) {
    features now = spectrum_measure(history);
    if (windows < learning) {
        background += (now.power - background) / ++windows;
        last_flux = now.flux;
        return;
    }
    double above = level(now.power) - level(background);
    double flux = now.flux > last_flux ? now.flux : last_flux;
    if (event.on) go_on(&now, from, above);
    else if (above >= setting[RISE] && level(now.power) >= setting[LOWEST] && flux >= setting[FLUX]) begin(&now, from);
    else background += (now.power - background) * follow;
    last_flux = now.flux;
}

static float mixed(int32_t n) {
    if (setting[CHANNEL] > 0.0) return audio[((int32_t)setting[CHANNEL] - 1) * stride + n];
    double sum = 0.0;
    for (int32_t c = 0; c < channels; c++) sum += (double)audio[c * stride + n];
    return (float)(sum / channels);
}

int32_t process(int32_t frames) {
    if (frames < 1 || frames > stride) return 0;
    for (int32_t n = 0; n < frames; n++) {
        float sample = mixed(n);
        history[filled++] = sample - sample == 0.0f ? sample : 0.0f;
        if (filled < spectrum.size) continue;
        listen(block_start + n + 1 - spectrum.size);
        filled = spectrum.size / 2;
        for (int32_t k = 0; k < filled; k++) history[k] = history[filled + k];
    }
    block_start += frames;
    return frames;
}
