/* How far the parts of a frame are from what a core can do; roofline.py compiles and runs it, and explains the columns.
 *
 * Includes the library, whose functions it calls one by one on the state of a recording that has begun. Prints lines
 * `name nanoseconds work`, medians over ROUNDS of a mean over REPEATS calls. */
#include "deepnmf.c"
#include <stdio.h>
#include <time.h>

#pragma GCC target("avx2,fma")
#define LANES 8
#define NAMED(name) name##_wide

enum { ROUNDS = 41, REPEATS = 50, CHAINS = 12, STEPS = 4096 };

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return 1e9 * (double)t.tv_sec + (double)t.tv_nsec;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static volatile float sink;

static void report(const char *name, void (*work)(deepnmf *), deepnmf *d, double amount)
{
    double took[ROUNDS];
    int r, k;
    for (r = 0; r < ROUNDS; r++) {
        double began = now();
        for (k = 0; k < REPEATS; k++) work(d);
        took[r] = (now() - began) / REPEATS;
    }
    qsort(took, ROUNDS, sizeof *took, compare);
    printf("%s %.1f %.0f\n", name, took[ROUNDS / 2], amount);
}

typedef float vectors __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

static void peak(deepnmf *d)   /* multiply-adds on registers, as many chains as hide their latency */
{
    vectors sums[CHAINS], factor, term;
    int c, k;
    for (k = 0; k < LANES; k++) {
        factor[k] = 0.5f + 1e-9f * (float)d->window;
        term[k] = (float)k;
    }
    for (c = 0; c < CHAINS; c++) sums[c] = term;
    for (k = 0; k < STEPS; k++)
UNROLL
        for (c = 0; c < CHAINS; c++) sums[c] = sums[c] * factor + term;
UNROLL
    for (c = 0; c < CHAINS; c++) sink = sums[c][0];
}

static size_t weight_count;
static const float *weight_room;

static void read_weights(deepnmf *d)   /* as many bytes as the weights have, once */
{
    vectors sums[8] = {0};
    size_t k;
    int c;
    (void)d;
    for (k = 0; k + 8 * LANES <= weight_count; k += 8 * LANES)
        for (c = 0; c < 8; c++) sums[c] += *(const vectors *)(weight_room + k + c * LANES);
    for (c = 0; c < 8; c++) sink = sums[c][0];
}

static void all_products(deepnmf *d)   /* those of `network` and `layer`, in their order and on their places */
{
    const deepnmf_model *m = d->model;
    const int nodes = d->nodes, spins = m->spins, frame = m->frame_spins, rank = m->frame_rank;
    const int node = m->bands_per_node, window = node + 2 * m->neighbours, room = (int)band_room(d), size = nodes * spins;
    int p, k;
    for (p = 0; p < m->context; p++)
        NAMED(products)(d->field, m->observe_bias, &m->observe_weight, 0, p * window, d->past + p * room, nodes, node, window, spins);
    for (p = 0; p < 4 && d->phase_nodes; p++)
        NAMED(products)(d->field, d->field, &m->phase_weight, 0, p * window, d->turned + p * room, d->phase_nodes, node, window, spins);
    for (k = 0; k < m->layers; k++) {
        NAMED(products)(d->answers, m->time_bias + 2 * k * size, &m->time_weight, k, k * spins, d->field, nodes, spins, spins, 2 * spins);
        NAMED(products)(d->answers, m->frequency_bias + 2 * k * size, &m->frequency_weight, k, k * spins, d->field, nodes, spins, spins, 2 * spins);
        NAMED(products)(d->chains, d->chains, &m->frequency_join, k, k * spins, d->field, nodes, spins, spins, spins);
        if (frame) {
            const int sent = d->sent, told = filled_up(sent);
            NAMED(products)(d->apart, d->apart, &m->frame_send, k, k * spins, d->field, nodes, spins, spins, filled_up(rank));
            NAMED(products)(d->frame_answers, m->frame_bias + 2 * k * frame, &m->frame_weight, k, k * sent, d->sent_by_nodes, 1, 0, sent, 2 * frame);
            NAMED(products)(d->told, d->told, &m->frame_spread, k, k * frame, d->frame_spins, 1, 0, frame, told);
            NAMED(products)(d->chains, d->chains, &m->frame_receive, k, k * rank, d->told, nodes, rank, rank, spins);
        }
    }
    NAMED(products)(d->read, d->read, &m->read_weight, 0, 0, d->field, nodes, spins, spins, d->readout);
    /* Sums that begin with what was there must stay numbers. */
    memset(d->field, 0, (size_t)size * sizeof(float));
    memset(d->chains, 0, (size_t)size * sizeof(float));
    memset(d->apart, 0, (size_t)(nodes * filled_up(rank)) * sizeof(float));
    memset(d->told, 0, (size_t)filled_up(d->sent) * sizeof(float));
    memset(d->read, 0, (size_t)(nodes * d->readout) * sizeof(float));
}

static void all_answers(deepnmf *d)
{
    const int spins = d->model->spins, frame = d->model->frame_spins;
    int k, n;
    for (k = 0; k < d->model->layers; k++) {   /* small numbers, as answers to answers would become too small */
        for (n = 0; n < 2 * d->nodes; n++) {
            memcpy(d->answers + n / 2 * 2 * spins, weight_room, (size_t)(2 * spins) * sizeof(float));
            NAMED(answer)(d->answers + n / 2 * 2 * spins, spins);
        }
        memcpy(d->frame_answers, weight_room, (size_t)(2 * frame) * sizeof(float));
        NAMED(answer)(d->frame_answers, frame);
    }
}

static void transforms(deepnmf *d)
{
    NAMED(forward)(&d->fft, d->frame, d->re, d->im);
    NAMED(backward)(&d->fft, d->re, d->im, d->frame);
}

static void hop(deepnmf *d)
{
    static unsigned seed = 1;
    float samples[4096];
    int k;
    for (k = 0; k < d->hop; k++) {
        seed = seed * 1664525u + 1013904223u;
        samples[k] = 1e-10f * (float)(int)seed;
    }
    deepnmf_process(d, samples, samples, (size_t)d->hop, 1, 1);
}

int main(void)
{
    deepnmf *d = deepnmf_create(16000, 1, INFINITY, 1);
    const deepnmf_model *m = d->model;
    int k;
    float *room;
    weight_count = WEIGHTS;
    room = malloc(weight_count * sizeof *room);
    for (k = 0; k < (int)weight_count; k++) room[k] = 1 + (float)(k % 7);
    weight_room = room;
    for (k = 0; k < 500; k++) hop(d);
    report("frame", hop, d, 1);
    report("network", d->infer, d, 1);
    report("products", all_products, d, 1);
    report("answers", all_answers, d, (2.0 * d->nodes * m->spins + m->frame_spins) * m->layers);
    report("transforms", transforms, d, d->window);
    report("peak", peak, d, (double)CHAINS * STEPS * LANES);
    report("weights", read_weights, d, (double)weight_count * sizeof *room);
    return 0;
}
