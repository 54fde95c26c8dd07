/* Second-order sections after R. Bristow-Johnson's cookbook of audio EQ biquads, in double precision. */
#ifndef BIQUAD_H
#define BIQUAD_H

#include <stagebox_math.h>

enum { OFF, PEAK, LOW_SHELF, HIGH_SHELF, LOW_CUT, HIGH_CUT, TYPES };

/* As scipy.signal has it, with a0 = 1. */
typedef struct {
    double b0, b1, b2, a1, a2;
} biquad;

/* What of the last samples goes on into the next: transposed direct form II. */
typedef struct {
    double z1, z2;
} biquad_state;

static inline biquad biquad_design(int type, double rate, double hz, double gain_db, double q) {
    double w = 2.0 * SB_PI * hz / rate, c = sb_cos(w), alpha = sb_sin(w) / (2.0 * q);
    double g = sb_from_db(gain_db / 2.0), root = 2.0 * __builtin_sqrt(g) * alpha;
    double b0 = 1.0, b1 = 0.0, b2 = 0.0, a0 = 1.0, a1 = 0.0, a2 = 0.0;
    switch (type) {
    case PEAK:
        b0 = 1.0 + alpha * g, b1 = -2.0 * c, b2 = 1.0 - alpha * g;
        a0 = 1.0 + alpha / g, a1 = -2.0 * c, a2 = 1.0 - alpha / g;
        break;
    case LOW_SHELF:
        b0 = g * ((g + 1.0) - (g - 1.0) * c + root), b2 = g * ((g + 1.0) - (g - 1.0) * c - root);
        b1 = 2.0 * g * ((g - 1.0) - (g + 1.0) * c), a1 = -2.0 * ((g - 1.0) + (g + 1.0) * c);
        a0 = (g + 1.0) + (g - 1.0) * c + root, a2 = (g + 1.0) + (g - 1.0) * c - root;
        break;
    case HIGH_SHELF:
        b0 = g * ((g + 1.0) + (g - 1.0) * c + root), b2 = g * ((g + 1.0) + (g - 1.0) * c - root);
        b1 = -2.0 * g * ((g - 1.0) + (g + 1.0) * c), a1 = 2.0 * ((g - 1.0) - (g + 1.0) * c);
        a0 = (g + 1.0) - (g - 1.0) * c + root, a2 = (g + 1.0) - (g - 1.0) * c - root;
        break;
    case LOW_CUT:
        b0 = b2 = (1.0 + c) / 2.0, b1 = -(1.0 + c);
        a0 = 1.0 + alpha, a1 = -2.0 * c, a2 = 1.0 - alpha;
        break;
    case HIGH_CUT:
        b0 = b2 = (1.0 - c) / 2.0, b1 = 1.0 - c;
        a0 = 1.0 + alpha, a1 = -2.0 * c, a2 = 1.0 - alpha;
        break;
    default:
        break;
    }
    biquad section = {b0 / a0, b1 / a0, b2 / a0, a1 / a0, a2 / a0};
    return section;
}

/* Wasm has no way to flush denormals, and a decaying filter would end in them: what is far below any sample is zero. */
static inline double biquad_settled(double z) { return __builtin_fabs(z) < 1e-20 ? 0.0 : z; }

/* Filters a block in place. */
static inline void biquad_run(biquad k, biquad_state *state, double *x, int32_t frames) {
    double z1 = state->z1, z2 = state->z2;
    for (int32_t n = 0; n < frames; n++) {
        double in = x[n], out = k.b0 * in + z1;
        z1 = k.b1 * in - k.a1 * out + z2;
        z2 = k.b2 * in - k.a2 * out;
        x[n] = out;
    }
    state->z1 = biquad_settled(z1), state->z2 = biquad_settled(z2);
}

/* The same while the coefficients move in a straight line from `from` to `to`. All (a1, a2) of stable sections form a
 * triangle, so every section on the way is stable too. */
static inline void biquad_glide(biquad from, biquad to, biquad_state *state, double *x, int32_t frames) {
    double z1 = state->z1, z2 = state->z2;
    for (int32_t n = 0; n < frames; n++) {
        double way = (double)(n + 1) / frames, in = x[n];
        double out = (from.b0 + way * (to.b0 - from.b0)) * in + z1;
        z1 = (from.b1 + way * (to.b1 - from.b1)) * in - (from.a1 + way * (to.a1 - from.a1)) * out + z2;
        z2 = (from.b2 + way * (to.b2 - from.b2)) * in - (from.a2 + way * (to.a2 - from.a2)) * out;
        x[n] = out;
    }
    state->z1 = biquad_settled(z1), state->z2 = biquad_settled(z2);
}

#endif
