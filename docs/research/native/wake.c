/* One frame of 16 ms by base, hot or after sleep, as a live stream wakes up; and whether reading the weights first pays:
 *
 *     deepnmf export base --format c -o denoise/
 *     cc -O3 -Idenoise docs/research/native/wake.c -lm -o wake
 *     ./wake 15 15        (rounds of 50 frames each way, milliseconds of sleep before a frame)
 *
 * Ways take turns from round to round. Prints CPU and wall microseconds of frames, the reading included. */
#define _GNU_SOURCE
#include "deepnmf.c"

#include <stdio.h>
#include <time.h>

enum { HOP = 256, ROUND = 50, MOST_ROUNDS = 200, WAYS = 3 };

static const char *const names[WAYS] = {"as it is", "weights prefetched first", "weights read first"};

#define ARRAY(name) {(const char *)name, sizeof name}
static const struct {
    const char *begin;
    size_t size;
} arrays[] = {
    ARRAY(observe_weight), ARRAY(phase_weight), ARRAY(time_bias), ARRAY(time_weight), ARRAY(frequency_bias), ARRAY(frequency_weight),
    ARRAY(frequency_join), ARRAY(frame_send), ARRAY(frame_bias), ARRAY(frame_weight), ARRAY(frame_spread), ARRAY(frame_receive),
    ARRAY(read_weight), ARRAY(pool), ARRAY(spread)};

static void bring(int way)
{
    static volatile char seen;
    size_t n, k;
    char sum = 0;
    for (n = 0; n < sizeof arrays / sizeof *arrays; n++)
        for (k = 0; k < arrays[n].size; k += 64)
            if (way == 1)
                __builtin_prefetch(arrays[n].begin + k);
            else
                sum += arrays[n].begin[k];
    seen = sum;
    (void)seen;
}

static double microseconds(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return 1e6 * (double)t.tv_sec + 1e-3 * (double)t.tv_nsec;
}

static int order(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int count, char **words)
{
    static double cpu[WAYS][MOST_ROUNDS * ROUND], wall[WAYS][MOST_ROUNDS * ROUND];
    static float x[HOP];
    int rounds = count == 3 ? atoi(words[1]) : 0, sleep_ms = count == 3 ? atoi(words[2]) : 0, r, way, h, k, frames = rounds * ROUND;
    unsigned seed = 1;
    deepnmf *d = deepnmf_create(16000, 1, INFINITY, 1);
    if (!d || rounds < 1 || rounds > MOST_ROUNDS) return 1;
    for (r = 0; r < rounds; r++)
        for (way = 0; way < WAYS; way++)
            for (h = 0; h < ROUND; h++) {
                struct timespec rest = {0, sleep_ms * 1000000L};
                double begin, wall_begin;
                for (k = 0; k < HOP; k++) {
                    seed = seed * 1664525u + 1013904223u;
                    x[k] = (float)((int)seed >> 8) / (1 << 23) * .05f + .3f * sinf((float)k * .1f) * sinf((float)k * .003f * (float)(h % 7));
                }
                if (sleep_ms) nanosleep(&rest, NULL);
                wall_begin = microseconds(CLOCK_MONOTONIC);
                begin = microseconds(CLOCK_THREAD_CPUTIME_ID);
                if (way) bring(way);
                deepnmf_process(d, x, x, HOP, 1, 1);
                cpu[way][r * ROUND + h] = microseconds(CLOCK_THREAD_CPUTIME_ID) - begin;
                wall[way][r * ROUND + h] = microseconds(CLOCK_MONOTONIC) - wall_begin;
            }
    deepnmf_destroy(d);
    for (way = 0; way < WAYS; way++) {
        double *c = cpu[way], *w = wall[way];
        qsort(c, (size_t)frames, sizeof *c, order);
        qsort(w, (size_t)frames, sizeof *w, order);
        printf("%s: %d frames, CPU median %.1f (10 %% %.1f, 90 %% %.1f), wall median %.1f (10 %% %.1f, 90 %% %.1f)\n", names[way], frames,
            c[frames / 2], c[frames / 10], c[frames * 9 / 10], w[frames / 2], w[frames / 10], w[frames * 9 / 10]);
    }
    return 0;
}
