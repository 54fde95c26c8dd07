/* Look-ahead limiter: the gain for all channels at once, from the block's peaks.
 *
 * With a look-ahead of L frames, c the ceiling and p[n] the highest channel of frame n:
 *
 *   wanted[n] = min(1, c / p[n])
 *   lowest[n] = min(wanted[n - L .. n])
 *   held[n]   = min(lowest[n], held[n-1] + (1 - held[n-1]) * release)
 *   gain[n]   = mean(held[n - L + 1 .. n])
 *   out[n]    = gain[n] * in[n - L]
 *
 * Each of the L values in the mean is at most wanted[n - L], and so is the mean: no sample comes out above the ceiling.
 */
#ifndef LIMITER_H
#define LIMITER_H

#include <stdint.h>

enum { MAX_AHEAD = 960 };

static struct {
    double held_ring[MAX_AHEAD]; /* held, the last L */
    double low_value[MAX_AHEAD + 1]; /* a queue of wanted gains that rise from its head: the head is the lowest */
    int64_t low_at[MAX_AHEAD + 1];
    int32_t low_head, low_size;
    int32_t ahead, ring_at;
    int64_t clock;
    double held, sum, release, ceiling;
} limiter;

static void limiter_start(int32_t ahead) {
    limiter.ahead = ahead;
    limiter.low_head = limiter.low_size = limiter.ring_at = 0;
    limiter.clock = 0;
    limiter.held = 1.0;
    limiter.sum = ahead;
    for (int32_t n = 0; n < ahead; n++) limiter.held_ring[n] = 1.0;
}

static double limiter_lowest(double wanted) {
    const int32_t room = limiter.ahead + 1;
    if (limiter.low_size > 0 && limiter.low_at[limiter.low_head] < limiter.clock - limiter.ahead) {
        limiter.low_head = limiter.low_head + 1 == room ? 0 : limiter.low_head + 1;
        limiter.low_size--;
    }
    while (limiter.low_size > 0) {
        int32_t last = limiter.low_head + limiter.low_size - 1;
        if (last >= room) last -= room;
        if (limiter.low_value[last] < wanted) break;
        limiter.low_size--;
    }
    int32_t next = limiter.low_head + limiter.low_size++;
    if (next >= room) next -= room;
    limiter.low_value[next] = wanted;
    limiter.low_at[next] = limiter.clock++;
    return limiter.low_value[limiter.low_head];
}

/* Returns the gain for the frame that comes out now, given the peak of the frame that goes in. */
static double limiter_gain(double peak) {
    double lowest = limiter_lowest(peak > limiter.ceiling ? limiter.ceiling / peak : 1.0);
    double risen = limiter.held + (1.0 - limiter.held) * limiter.release;
    limiter.held = lowest < risen ? lowest : risen;
    limiter.sum += limiter.held - limiter.held_ring[limiter.ring_at];
    limiter.held_ring[limiter.ring_at] = limiter.held;
    if (++limiter.ring_at == limiter.ahead) {
        /* Added up afresh once a turn, so that rounding does not gather. */
        limiter.ring_at = 0;
        limiter.sum = 0.0;
        for (int32_t n = 0; n < limiter.ahead; n++) limiter.sum += limiter.held_ring[n];
    }
    return limiter.sum / limiter.ahead;
}

#endif
