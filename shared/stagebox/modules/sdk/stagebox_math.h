/* The functions of <math.h> that audio needs, for modules built without a libc: double precision, error below 1e-14.
 *
 * Square root, absolute value, floor and nearest integer are instructions of Wasm: use __builtin_sqrt, __builtin_fabs,
 * __builtin_floor and __builtin_rint.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef STAGEBOX_MATH_H
#define STAGEBOX_MATH_H

#include <stdint.h>

#define SB_PI 3.14159265358979323846
#define SB_LN2 0.693147180559945309417
#define SB_LN10 2.30258509299404568402

static inline int sb_is_finite(double x) { return x - x == 0.0; }

/* e^x; 0 and the largest double beyond the range. */
static inline double sb_exp(double x) {
    if (x < -708.0) return 0.0;
    if (x > 709.0) return 1.7976931348623157e308;
    double k = __builtin_rint(x / SB_LN2);
    /* ln 2 in two parts, so that k times the first is exact. */
    double r = (x - k * 0x1.62e42fee00000p-1) - k * 0x1.a39ef35793c76p-33;
    double sum = 1.0;
    for (int n = 14; n > 0; n--) sum = 1.0 + sum * r / n;
    union { uint64_t bits; double value; } scale = {(uint64_t)((int64_t)k + 1023) << 52};
    return sum * scale.value;
}

/* Natural logarithm of a finite x; that of 0 and below is taken as that of the smallest normal double. */
static inline double sb_ln(double x) {
    union { double value; uint64_t bits; } both = {x >= 0x1p-1022 ? x : 0x1p-1022};
    int64_t exponent = (int64_t)(both.bits >> 52) - 1023;
    both.bits = (both.bits & 0xfffffffffffffu) | (uint64_t)1023 << 52;
    if (both.value > 1.4142135623730951) both.value *= 0.5, exponent++;
    /* ln m = 2 artanh((m - 1) / (m + 1)), and |s| is below 0.172. */
    double s = (both.value - 1.0) / (both.value + 1.0), square = s * s, sum = 0.0;
    for (int n = 21; n > 0; n -= 2) sum = sum * square + 1.0 / n;
    return 2.0 * s * sum + (double)exponent * SB_LN2;
}

static inline double sb_log10(double x) { return sb_ln(x) / SB_LN10; }

/* Of a quarter turn at most: |x| up to pi/4. */
static inline double sb_sin_series(double x) {
    double sum = 1.0;
    for (int n = 16; n > 0; n -= 2) sum = 1.0 - sum * x * x / (n * (n + 1));
    return sum * x;
}

static inline double sb_cos_series(double x) {
    double sum = 1.0;
    for (int n = 18; n > 0; n -= 2) sum = 1.0 - sum * x * x / (n * (n - 1));
    return sum;
}

/* Sine of x + quarters * pi/2, for |x| up to 1e5. */
static inline double sb_sin_turned(double x, int quarters) {
    double k = __builtin_rint(x / (SB_PI / 2.0));
    double r = (x - k * 0x1.921fb54400000p+0) - k * 0x1.0b4611a626331p-34;
    switch (((int64_t)k + quarters) & 3) {
    case 0: return sb_sin_series(r);
    case 1: return sb_cos_series(r);
    case 2: return -sb_sin_series(r);
    default: return -sb_cos_series(r);
    }
}

static inline double sb_sin(double x) { return sb_sin_turned(x, 0); }
static inline double sb_cos(double x) { return sb_sin_turned(x, 1); }

/* Decibels to a factor of amplitude; a factor of amplitude, and one of power, to decibels. */
static inline double sb_from_db(double db) { return sb_exp(db * (SB_LN10 / 20.0)); }
static inline double sb_db(double amplitude) { return 20.0 * sb_log10(amplitude); }
static inline double sb_power_db(double power) { return 10.0 * sb_log10(power); }

#endif
