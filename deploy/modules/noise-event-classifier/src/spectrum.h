/* What one window of the signal looks like: level, spectral flux, flatness, octave bands, strongest frequency.
 *
 * A window has about 21 ms (1024 samples at 48 kHz) and Hann's shape, and moves by half of itself. Powers are mean
 * squares: those of all bins together are the mean square of the signal under the window, 0 dBFS is 1.
 */
#ifndef SPECTRUM_H
#define SPECTRUM_H

#include "fft.h"

enum { BINS_MOST = FFT_MOST / 2 + 1, OCTAVES = 9 };
static const double SILENT = 1e-15; /* -150 dBFS */

typedef struct {
    double power, flux, flatness;
} features;

static struct {
    int32_t size, bins;
    int32_t flat_from, flat_to;        /* bins of 100 Hz to 10 kHz */
    int32_t octave_from[OCTAVES + 1];  /* first bin of the octaves of 63 Hz to 16 kHz, and one behind */
    double rate, scale;
    double window[FFT_MOST], work[FFT_MOST];
    double power[BINS_MOST], magnitude[BINS_MOST];
} spectrum;

static int32_t spectrum_bin(double hz) {
    double bin = hz * spectrum.size / spectrum.rate;
    int32_t first = (int32_t)bin + (bin > (double)(int32_t)bin);
    return first < 1 ? 1 : first > spectrum.bins ? spectrum.bins : first;
}

static void spectrum_start(double rate) {
    int32_t size = 64;
    while (size < rate / 50.0 && size < FFT_MOST) size *= 2;
    spectrum.rate = rate, spectrum.size = size, spectrum.bins = size / 2 + 1;
    double squares = 0.0;
    for (int32_t n = 0; n < size; n++) {
        spectrum.window[n] = 0.5 - 0.5 * sb_cos(2.0 * SB_PI * n / size);
        squares += spectrum.window[n] * spectrum.window[n];
    }
    spectrum.scale = 2.0 / (size * squares);
    spectrum.flat_from = spectrum_bin(100.0), spectrum.flat_to = spectrum_bin(10000.0);
    /* Octaves to base 10, centred at 1 kHz times 10^(0.3 n), n from -4. */
    for (int32_t n = 0; n <= OCTAVES; n++)
        spectrum.octave_from[n] = spectrum_bin(1000.0 * sb_exp(SB_LN10 * 0.3 * (n - 4.5)));
    fft_start(size);
}

/* Measures one window of samples; the flux is against the window before. */
static features spectrum_measure(const float *samples) {
    double mean = 0.0, total = 0.0, risen = 0.0, both = 0.0, logs = 0.0, flat = 0.0;
    for (int32_t n = 0; n < spectrum.size; n++) mean += (double)samples[n];
    mean /= spectrum.size;
    for (int32_t n = 0; n < spectrum.size; n++)
        spectrum.work[n] = ((double)samples[n] - mean) * spectrum.window[n];
    fft_power(spectrum.work, spectrum.power);
    spectrum.power[0] = 0.0;
    for (int32_t k = 1; k < spectrum.bins; k++) {
        double power = spectrum.power[k] * (k == spectrum.bins - 1 ? spectrum.scale / 2.0 : spectrum.scale);
        double magnitude = __builtin_sqrt(power);
        spectrum.power[k] = power;
        total += power;
        if (magnitude > spectrum.magnitude[k]) risen += magnitude - spectrum.magnitude[k];
        both += magnitude + spectrum.magnitude[k];
        spectrum.magnitude[k] = magnitude;
        if (k < spectrum.flat_from || k >= spectrum.flat_to) continue;
        logs += sb_ln(power + 1e-20);
        flat += power + 1e-20;
    }
    int32_t count = spectrum.flat_to - spectrum.flat_from;
    features found = {total, both > 0.0 ? risen / both : 0.0, count > 0 ? sb_exp(logs / count) * count / flat : 1.0};
    return found;
}

static double spectrum_octave(int32_t octave) {
    double sum = 0.0;
    for (int32_t k = spectrum.octave_from[octave]; k < spectrum.octave_from[octave + 1]; k++) sum += spectrum.power[k];
    return sum;
}

/* The strongest frequency in Hz: the top of the parabola through the highest bin and its neighbours, in dB. */
static double spectrum_strongest(void) {
    int32_t top = 1;
    for (int32_t k = 2; k < spectrum.bins - 1; k++)
        if (spectrum.power[k] > spectrum.power[top]) top = k;
    double left = sb_power_db(spectrum.power[top - 1] + 1e-20), here = sb_power_db(spectrum.power[top] + 1e-20);
    double right = sb_power_db(spectrum.power[top + 1] + 1e-20), bend = left - 2.0 * here + right;
    double aside = bend < 0.0 ? 0.5 * (left - right) / bend : 0.0;
    return (top + aside) * spectrum.rate / spectrum.size;
}

#endif
