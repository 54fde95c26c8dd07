/* Power spectrum of a real signal: one complex FFT of half the length, radix 2, in double precision. */
#ifndef FFT_H
#define FFT_H

#include <stagebox_math.h>

enum { FFT_MOST = 4096 };

static struct {
    int32_t size; /* a power of two */
    double cosine[FFT_MOST / 2], sine[FFT_MOST / 2]; /* of 2 pi k / size */
    double re[FFT_MOST / 2], im[FFT_MOST / 2];
} fft;

static void fft_start(int32_t size) {
    fft.size = size;
    for (int32_t k = 0; k < size / 2; k++) {
        fft.cosine[k] = sb_cos(2.0 * SB_PI * k / size);
        fft.sine[k] = sb_sin(2.0 * SB_PI * k / size);
    }
}

static void fft_transform(void) {
    const int32_t half = fft.size / 2;
    for (int32_t i = 0, j = 0; i < half; i++) {
        if (i < j) {
            double re = fft.re[i], im = fft.im[i];
            fft.re[i] = fft.re[j], fft.im[i] = fft.im[j];
            fft.re[j] = re, fft.im[j] = im;
        }
        int32_t bit = half >> 1;
        for (; bit > 0 && j & bit; bit >>= 1) j ^= bit;
        j |= bit;
    }
    for (int32_t width = 1; width < half; width *= 2) {
        const int32_t step = half / width; /* in turns of `size`: 2 pi k / (2 width) */
        for (int32_t k = 0; k < width; k++) {
            const double c = fft.cosine[k * step], s = fft.sine[k * step];
            for (int32_t a = k; a < half; a += 2 * width) {
                const int32_t b = a + width;
                double re = c * fft.re[b] + s * fft.im[b], im = c * fft.im[b] - s * fft.re[b];
                fft.re[b] = fft.re[a] - re, fft.im[b] = fft.im[a] - im;
                fft.re[a] += re, fft.im[a] += im;
            }
        }
    }
}

/* |X[k]|^2 of x[0 .. size), for k = 0 .. size / 2. Even samples are the real part and odd ones the imaginary part of a
 * signal of half the length, whose transform is taken apart again. */
static void fft_power(const double *x, double *power) {
    const int32_t half = fft.size / 2;
    for (int32_t n = 0; n < half; n++) fft.re[n] = x[2 * n], fft.im[n] = x[2 * n + 1];
    fft_transform();
    for (int32_t k = 0; k <= half; k++) {
        const int32_t i = k == half ? 0 : k, j = k == 0 || k == half ? 0 : half - k;
        const double even_re = (fft.re[i] + fft.re[j]) / 2.0, even_im = (fft.im[i] - fft.im[j]) / 2.0;
        const double odd_re = (fft.im[i] + fft.im[j]) / 2.0, odd_im = (fft.re[j] - fft.re[i]) / 2.0;
        const double c = k == half ? -1.0 : fft.cosine[k], s = k == half ? 0.0 : fft.sine[k];
        const double re = even_re + c * odd_re + s * odd_im, im = even_im + c * odd_im - s * odd_re;
        power[k] = re * re + im * im;
    }
}

#endif
