/* See deepnmf.h. Compile this file with deepnmf_model.h beside it: cc -O3 -c deepnmf.c
 *
 * The steps are those of `deepnmf enhance`: hops without constant offset -> spectra -> features -> network -> mask ->
 * spectra -> hops. docs/theory/grid.md of the project has the equations of the network.
 *
 * The time-critical code is written for vectors of LANES numbers, from "Code for one width of vectors" to the end. This
 * file includes itself for it, for x86-64 twice: once for every processor, and once for those with AVX2. With
 * DEEPNMF_LIBRARY defined, the caller passes models, and deepnmf_model.h is not needed.
 */
#ifndef LANES
#if defined(__GNUC__) && !defined(__clang__) && defined(__OPTIMIZE__)
#pragma GCC optimize("O3", "no-trapping-math", "no-math-errno", "fp-contract=fast")
#endif

#include "deepnmf.h"
#ifndef DEEPNMF_LIBRARY
#include "deepnmf_model.h"
#endif

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__GNUC__)
#define RESTRICT __restrict__
#define INLINE static inline __attribute__((always_inline, unused))
#define SEPARATE __attribute__((noinline))
#else
#define RESTRICT
#define INLINE static inline
#define SEPARATE
#endif

#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__)
#define UNROLL _Pragma("GCC unroll 16")
#else
#define UNROLL
#endif

/* Vectors must be supported by the compiler and by the processor. */
#if !defined(__GNUC__) || defined(DEEPNMF_SCALAR)
#define NARROW 1
#elif defined(__SSE2__) || defined(__ARM_NEON) || defined(__wasm_simd128__) || defined(__ALTIVEC__)
#define NARROW 4
#else
#define NARROW 1
#endif
#if NARROW == 4 && defined(__x86_64__) && !defined(DEEPNMF_PLAIN)
#define TWICE
#include <cpuid.h>
#endif
#if NARROW == 4 && defined(__SSE2__)
#include <immintrin.h>
#elif NARROW == 4 && defined(__aarch64__)
#include <arm_neon.h>
#endif

enum {
    BLOCK = 8,           /* outputs of products are multiples of it, filled up with weights of zero */
    LEVEL_FRAMES = 250,  /* how far the level and the offset look back */
    MOST_CHANNELS = 64,
    BELOW = 6, ABOVE = 7,    /* bands below and above the reach of a network, from which gains above follow: up to BLOCK */
    ABOVE_INPUTS = BELOW + 2 + 3 * ABOVE
};

static const float SILENCE = 1e-15f;           /* level below which a frame holds zeros only */
static const float SMALLEST = 1e-30f;          /* products of magnitudes, and masks, that count as zero */
static const double SMALLEST_GAIN = 1e-6;      /* a mask of zero does not decide alone about the offset */
static const float LARGEST = 1e15f;            /* samples beyond cannot be squared in single precision */
static const double PI = 3.14159265358979323846;

/* Models --------------------------------------------------------------------------------------------------------- */

#ifdef DEEPNMF_INT8
typedef signed char weight;
#else
typedef float weight;
#endif

/* Matrices of all layers that have one, each (inputs, outputs), so that the innermost loop runs over adjacent numbers.
 * With integer weights, each output has a scale. */
typedef struct {
    const weight *values;
    const float *scales;
} matrix;

/* A network of the grid family and its front end, made in this order by deepnmf_cli/native/model.py. K layers, N nodes,
 * C spins per node, of which the first half goes up along frequency and the second half down; S spins per frame. */
typedef struct {
    int layers, bins, single_bands, wide_bands, bands_per_node, neighbours, context, spins, frame_spins, frame_rank, phase;
    int window_hops, above_spins;   /* spins above the reach are a multiple of BLOCK */
    double hop_s, compression, quiet, silent, farthest;
    const int *segments;            /* (wide bands + 1): bins above the single ones up to which the last wide band is b */
    const float *pool, *spread;     /* (2, bins): what such a bin gives to bands b and b + 1, and takes of their masks */
    const float *hop_turn;          /* (hops of a window, 2): turns of a bin in a hop */
    const float *observe_bias;      /* (N, C) */
    const float *time_bias, *frequency_bias;  /* (K, N, 2 C): couplings, then schedules */
    const float *frame_bias;        /* (K, 2 S) */
    const float *read_bias;         /* (marginals of the bands of a node, then what turns them) */
    const int *below_ends;          /* (BELOW + 1): bins between the bands below the reach of the network */
    const float *above_edges;       /* (ABOVE): where bands above begin, the reach being 1 */
    const float *above_rate, *above_rate_bias;      /* (BELOW, 2 ABOVE filled up) and (2 ABOVE filled up) */
    const float *above_spin, *above_spin_bias, *above_spin_rate, *above_spin_rate_bias;  /* (ABOVE_INPUTS, spins), (spins) */
    const float *above_gain, *above_gain_bias;      /* (spins, BLOCK) and (BLOCK) */
    matrix observe_weight, time_weight, frequency_weight, frequency_join, read_weight;
    matrix phase_weight, frame_send, frame_weight, frame_spread, frame_receive;
} deepnmf_model;

#ifndef DEEPNMF_LIBRARY
static const deepnmf_model own_model = DEEPNMF_MODEL;
#endif

/* State --------------------------------------------------------------------------------------------------------- */

/* Complex transforms of any length: Stockham's algorithm for lengths with small factors, and for others Bluestein's, a
 * convolution with a chirp by transforms of a power of two. Real and imaginary parts are stored separately. */

enum { MOST_FACTORS = 32, LARGEST_RADIX = 13 };

typedef struct {
    int n, factors, radix[MOST_FACTORS];
    float *cosine, *sine;      /* exp(-2 pi i k / n) */
    float *first;              /* the same for the first pass, if its radix is 4: (3, cosine and sine, n / 4) */
    float *work_re, *work_im;
} small_fft;

typedef struct {
    int n, padded;             /* padded = 0: the length has small factors */
    small_fft fft;             /* of n, or of the padded length */
    float *chirp_re, *chirp_im, *kernel_re, *kernel_im, *re, *im;
} complex_fft;

typedef struct {
    int n;
    complex_fft half;          /* of n / 2 where n is even, else of n */
    float *cosine, *sine;      /* exp(-2 pi i k / n), for even n */
    float *re, *im;
} real_fft;

/* An exponentially forgetting mean of one value per hop, interpolated linearly from hop to hop. */
typedef struct {
    double sum, weight, last;
    int begun;
} running_mean;

struct deepnmf {
    const deepnmf_model *model;
    void (*advance)(deepnmf *);
    void (*infer)(deepnmf *);
    int channels, hop, window, bins, filled, begun;
    int bands, nodes, sent, phase_nodes, readout;   /* sizes that follow from those of the model */
    float floor, mix;
    real_fft fft;
    float *analysis, *synthesis;
    float *pending, *ready;                     /* (C, hop) of the input and of the output */
    float *history, *overlap, *offsets;         /* (C, window), (C, hop), (C, 2 hop) */
    float *frame, *re, *im, *before_re, *before_im;   /* (window), spectra (C, bins), and (C, single bands) */
    float *magnitude, *mask_re, *mask_im, *product, *products[4];
    running_mean *offset, reciprocal;

    float power, weight;                        /* of the running level */
    float *past;                                /* (context, room for bands and neighbours), the oldest frame first */
    float *node_spins, *frame_spins;            /* (K, N, C) and (K, S) of the frame before */
    float *turned;                              /* (4, room) */
    float *field, *answers, *chains;            /* (N, C), (N, 2 C), (N, C) */
    float *apart, *sent_by_nodes, *told, *frame_answers;  /* (N, rank filled up), (N, rank) twice, (2 S) */
    float *read;                                /* (N, readout) */
    float *wide, *speech;                       /* (wide bands + 1), (bands + 1) */
    float *averages, *spins_above, *aims_above; /* (2 ABOVE), (spins) and (2, spins) of the gains above the reach */
};

static int filled_up(int count)
{
    return (count + BLOCK - 1) / BLOCK * BLOCK;
}

/* Room for the bands, for neighbours at both ends, and for what the last vectors access beyond. */
static size_t band_room(const deepnmf *d)
{
    return (size_t)(d->bands + 2 * d->model->neighbours + BLOCK);
}

/* Update a mean and return the one before (at first the new one); the new one is m->last. */
static double follow(running_mean *m, double value, int restart)
{
    double before = m->last;
    m->sum = restart ? 0 : (1 - 1.0 / LEVEL_FRAMES) * m->sum + value;
    m->weight = restart ? 0 : (1 - 1.0 / LEVEL_FRAMES) * m->weight + 1;
    m->last = restart ? 0 : m->sum / m->weight;
    if (!m->begun) before = m->last;
    m->begun = 1;
    return before;
}

static float within(float x, float low, float high)
{
    return x < low ? low : x > high ? high : x;
}

/* out = bias + x W, W (inputs, outputs) */
static void affine(const float *weights, const float *bias, const float *x, int inputs, int outputs, float *out)
{
    int i, k;
    for (i = 0; i < outputs; i++) out[i] = bias[i];
    for (k = 0; k < inputs; k++)
        for (i = 0; i < outputs; i++) out[i] += weights[k * outputs + i] * x[k];
}

/* Include the code for each width of vectors. */
#define LANES NARROW
#define NAMED(name) name##_narrow
#include "deepnmf.c"
#undef LANES
#undef NAMED
#ifdef TWICE
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#define LANES 8
#define NAMED(name) name##_wide
#include "deepnmf.c"
#undef LANES
#undef NAMED
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

/* Return whether the processor has AVX2 and FMA, and the operating system saves their registers. */
static int has_avx2(void)
{
    unsigned a, b, c, d, saved, high;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c >> 12 & 1) == 0 || (c >> 27 & 1) == 0) return 0;
    __asm__("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
    return (saved & 6) == 6 && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b >> 5 & 1);
}
#endif

/* Creation ------------------------------------------------------------------------------------------------------- */

/* All memory is taken from one block; a first pass without a block counts how much is needed. */
typedef struct {
    char *begin;
    size_t used;
} arena;

static void *take(arena *a, size_t count, size_t size)
{
    size_t at = (a->used + 63) / 64 * 64;
    a->used = at + count * size;
    return a->begin ? (void *)(a->begin + at) : NULL;
}

static float *floats(arena *a, size_t count)
{
    return (float *)take(a, count, sizeof(float));
}

static int factorise(int n, int *radix)
{
    int count = 0, r;
    for (r = 4; n > 1; r = r == 4 ? 2 : r == 2 ? 3 : r + 2)
        for (; n % r == 0; n /= r) {
            if (r > LARGEST_RADIX) return 0;
            radix[count++] = r;
        }
    return count;
}

static void turn_table(float *cosine, float *sine, int n)
{
    int k;
    for (k = 0; k < n; k++) {
        cosine[k] = (float)cos(2 * PI * k / n);
        sine[k] = (float)-sin(2 * PI * k / n);
    }
}

static void small_plan(small_fft *f, int n, arena *a)
{
    int k, p;
    f->n = n;
    f->factors = factorise(n, f->radix);
    f->cosine = floats(a, (size_t)n);
    f->sine = floats(a, (size_t)n);
    f->first = floats(a, (size_t)(6 * (n / 4)));
    f->work_re = floats(a, (size_t)n);
    f->work_im = floats(a, (size_t)n);
    if (!a->begin) return;
    turn_table(f->cosine, f->sine, n);
    for (k = 1; k <= 3 && n % 4 == 0; k++)
        for (p = 0; p < n / 4; p++) {
            f->first[(2 * k - 2) * (n / 4) + p] = f->cosine[k * p];
            f->first[(2 * k - 1) * (n / 4) + p] = f->sine[k * p];
        }
}

static void complex_plan(complex_fft *f, int n, arena *a)
{
    int radix[MOST_FACTORS], k;
    f->n = n;
    f->padded = 0;
    if (n == 1 || factorise(n, radix)) {
        small_plan(&f->fft, n, a);
        return;
    }
    for (f->padded = 1; f->padded < 2 * n - 1; f->padded *= 2) {}
    small_plan(&f->fft, f->padded, a);
    f->chirp_re = floats(a, (size_t)n);
    f->chirp_im = floats(a, (size_t)n);
    f->kernel_re = floats(a, (size_t)f->padded);
    f->kernel_im = floats(a, (size_t)f->padded);
    f->re = floats(a, (size_t)f->padded);
    f->im = floats(a, (size_t)f->padded);
    if (!a->begin) return;
    memset(f->kernel_re, 0, (size_t)f->padded * sizeof(float));
    memset(f->kernel_im, 0, (size_t)f->padded * sizeof(float));
    for (k = 0; k < n; k++) {
        double angle = PI * (double)((int64_t)k * k % (2 * n)) / n;
        f->chirp_re[k] = (float)cos(angle);
        f->chirp_im[k] = (float)-sin(angle);
        f->kernel_re[k] = f->kernel_re[(f->padded - k) % f->padded] = (float)(cos(angle) / f->padded);
        f->kernel_im[k] = f->kernel_im[(f->padded - k) % f->padded] = (float)(sin(angle) / f->padded);
    }
    small_transform_narrow(&f->fft, f->kernel_re, f->kernel_im);
}

static void real_plan(real_fft *f, int n, arena *a)
{
    f->n = n;
    complex_plan(&f->half, n % 2 ? n : n / 2, a);
    f->cosine = floats(a, (size_t)n);
    f->sine = floats(a, (size_t)n);
    f->re = floats(a, (size_t)n);
    f->im = floats(a, (size_t)n);
    if (a->begin) turn_table(f->cosine, f->sine, n);
}

static void plan(deepnmf *d, arena *a)
{
    const deepnmf_model *m = d->model;
    size_t channels = (size_t)d->channels, hop = (size_t)d->hop, window = (size_t)d->window, bins = (size_t)d->bins;
    size_t most = bins > (size_t)m->bins ? bins : (size_t)m->bins, single = (size_t)m->single_bands;
    size_t nodes = (size_t)d->nodes, spins = (size_t)m->spins, layers = (size_t)m->layers;
    int p;
    real_plan(&d->fft, d->window, a);
    d->analysis = floats(a, window);
    d->synthesis = floats(a, 2 * hop);
    d->pending = floats(a, channels * hop);
    d->ready = floats(a, channels * hop);
    d->history = floats(a, channels * window);
    d->overlap = floats(a, channels * hop);
    d->offsets = floats(a, channels * 2 * hop);
    d->frame = floats(a, window);
    d->re = floats(a, channels * bins);
    d->im = floats(a, channels * bins);
    d->before_re = floats(a, channels * single);
    d->before_im = floats(a, channels * single);
    d->magnitude = floats(a, most + BLOCK);
    d->mask_re = floats(a, most + BLOCK);
    d->mask_im = floats(a, most + BLOCK);
    d->product = floats(a, 3 * single);
    for (p = 0; p < 4; p++) d->products[p] = floats(a, single + BLOCK);
    d->offset = (running_mean *)take(a, channels, sizeof(running_mean));
    d->past = floats(a, (size_t)m->context * band_room(d));
    d->turned = floats(a, 4 * band_room(d));
    d->node_spins = floats(a, layers * nodes * spins);
    d->frame_spins = floats(a, layers * (size_t)m->frame_spins);
    d->field = floats(a, nodes * spins);
    d->answers = floats(a, nodes * 2 * spins);
    d->chains = floats(a, nodes * spins);
    d->apart = floats(a, nodes * (size_t)filled_up(m->frame_rank));
    d->sent_by_nodes = floats(a, (size_t)filled_up(d->sent));
    d->told = floats(a, (size_t)filled_up(d->sent));
    d->frame_answers = floats(a, 2 * (size_t)m->frame_spins);
    d->read = floats(a, nodes * (size_t)d->readout);
    d->wide = floats(a, (size_t)m->wide_bands + BLOCK);
    d->speech = floats(a, (size_t)d->bands + BLOCK);
    d->averages = floats(a, 2 * ABOVE);
    d->spins_above = floats(a, (size_t)m->above_spins);
    d->aims_above = floats(a, 2 * (size_t)m->above_spins);
}

static void make_windows(deepnmf *d)
{
    int hop = d->hop, rise = d->window - hop, k;
    double sum = 0;
    for (k = 0; k < d->window; k++) sum += k < rise ? sin(PI / 2 * k / rise) : cos(PI / 2 * (k - rise) / hop);
    for (k = 0; k < d->window; k++) {
        double value = k < rise ? sin(PI / 2 * k / rise) : cos(PI / 2 * (k - rise) / hop);
        int late = k - (d->window - 2 * hop);
        d->analysis[k] = (float)(value / sum);
        if (late >= 0) {
            double hann = sin(PI * late / (2 * hop));
            d->synthesis[late] = value > 0 ? (float)(hann * hann / value * sum) : 0;
        }
    }
}

static deepnmf *create(const deepnmf_model *m, int rate_hz, int channels, float max_attenuation_db, float mix)
{
    arena a = {NULL, 0};
    deepnmf shape, *d;
    if (rate_hz < 1000 || rate_hz > 768000 || channels < 1 || channels > MOST_CHANNELS) return NULL;
    if (!(max_attenuation_db >= 0) || !(mix >= 0 && mix <= 1)) return NULL;
    memset(&shape, 0, sizeof shape);
    shape.model = m;
    shape.channels = channels;
    shape.hop = (int)rint(rate_hz * m->hop_s);
    if (shape.hop < 1) shape.hop = 1;
    shape.window = m->window_hops * shape.hop;
    shape.bins = shape.window / 2 + 1;
    shape.bands = m->single_bands + m->wide_bands;
    shape.nodes = shape.bands / m->bands_per_node;
    shape.sent = shape.nodes * m->frame_rank;
    shape.phase_nodes = m->phase ? m->single_bands / m->bands_per_node : 0;
    shape.readout = filled_up((m->phase ? 3 : 1) * m->bands_per_node);
    shape.floor = isinf(max_attenuation_db) ? 0 : powf(10, -max_attenuation_db / 20);
    shape.mix = mix;
    shape.advance = advance_narrow;
    shape.infer = network_narrow;
#ifdef TWICE
    if (has_avx2()) {
        shape.advance = advance_wide;
        shape.infer = network_wide;
    }
#endif
    (void)take(&a, 1, sizeof(deepnmf));
    plan(&shape, &a);
    a.begin = (char *)calloc(1, a.used + 64);
    if (!a.begin) return NULL;
    a.used = 0;
    d = (deepnmf *)take(&a, 1, sizeof(deepnmf));
    *d = shape;
    plan(d, &a);
    make_windows(d);
    return d;
}

void deepnmf_destroy(deepnmf *d)
{
    free(d);
}

int deepnmf_latency(const deepnmf *d)
{
    return 2 * d->hop;
}

/* Samples -------------------------------------------------------------------------------------------------------- */

/* Copy the samples of `count` frames to the pending ones, from `filled` on. */
static void accept(deepnmf *d, const float *input, size_t count, size_t frame_stride, size_t channel_stride)
{
    size_t t;
    int c;
    for (c = 0; c < d->channels; c++) {
        const float *x = input + (size_t)c * channel_stride;
        float *y = d->pending + c * d->hop + d->filled;
        for (t = 0; t < count; t++) {
            float value = x[t * frame_stride];
            y[t] = value >= -LARGEST && value <= LARGEST ? value : 0;
        }
    }
}

static void deliver(const deepnmf *d, float *output, size_t count, size_t frame_stride, size_t channel_stride)
{
    size_t t;
    int c;
    for (c = 0; c < d->channels; c++) {
        const float *x = d->ready + c * d->hop + d->filled;
        float *y = output + (size_t)c * channel_stride;
        for (t = 0; t < count; t++) y[t * frame_stride] = x[t];
    }
}

void deepnmf_process(
    deepnmf *d, const float *input, float *output, size_t frames, size_t frame_stride, size_t channel_stride)
{
    while (frames) {
        size_t count = (size_t)(d->hop - d->filled);
        if (count > frames) count = frames;
        accept(d, input, count, frame_stride, channel_stride);
        deliver(d, output, count, frame_stride, channel_stride);
        input += count * frame_stride;
        output += count * frame_stride;
        frames -= count;
        d->filled += (int)count;
        if (d->filled == d->hop) {
            d->advance(d);
            d->filled = 0;
        }
    }
}

#ifndef DEEPNMF_LIBRARY

deepnmf *deepnmf_create(int rate_hz, int channels, float max_attenuation_db, float mix)
{
    return create(&own_model, rate_hz, channels, max_attenuation_db, mix);
}

#else

/* For `--backend native`: see deepnmf_cli/native/library.py. The number changes with these functions and the model. */
enum { INTERFACE = 1 };

#if defined(_WIN32)
#define PUBLIC __declspec(dllexport)
#else
#define PUBLIC
#endif

PUBLIC int deepnmf_interface(void)
{
    return INTERFACE;
}

PUBLIC int deepnmf_model_size(void)
{
    return (int)sizeof(deepnmf_model);
}

/* Like deepnmf_create, for a model that must stay at its address as long as the object exists. */
PUBLIC deepnmf *deepnmf_create_for(
    const deepnmf_model *model, int rate_hz, int channels, float max_attenuation_db, float mix)
{
    return create(model, rate_hz, channels, max_attenuation_db, mix);
}

PUBLIC void deepnmf_free(deepnmf *d)
{
    deepnmf_destroy(d);
}

/* Like deepnmf_process, for whole hops: the output lags behind by one hop. */
PUBLIC void deepnmf_hops(deepnmf *d, const float *input, float *output, size_t hops, size_t channel_stride)
{
    size_t t;
    for (t = 0; t < hops; t++) {
        accept(d, input + t * (size_t)d->hop, (size_t)d->hop, 1, channel_stride);
        d->advance(d);
        deliver(d, output + t * (size_t)d->hop, (size_t)d->hop, 1, channel_stride);
    }
}

/* The network alone: features (1 or 5, bins, frames) -> speech masks (2, bins, frames), real and imaginary part. */
PUBLIC void deepnmf_masks(deepnmf *d, const float *features, float *masks, size_t frames)
{
    size_t bins = (size_t)d->model->bins, single = (size_t)d->model->single_bands, t, k, p;
    for (t = 0; t < frames; t++) {
        for (k = 0; k < bins; k++) d->magnitude[k] = features[k * frames + t];
        for (p = 0; p < 4 && d->phase_nodes; p++)
            for (k = 0; k < single; k++) d->products[p][k] = features[((p + 1) * bins + k) * frames + t];
        d->infer(d);
        for (k = 0; k < bins; k++) masks[k * frames + t] = d->mask_re[k];
        for (k = 0; k < bins; k++) masks[(bins + k) * frames + t] = d->mask_im[k];
    }
}

#endif

#else /* Code for one width of vectors ---------------------------------------------------------------------------- */

#define vec NAMED(vec)
#define quad NAMED(quad)
#define whole NAMED(whole)
#define small_transform NAMED(small_transform)
#define advance NAMED(advance)
#define network NAMED(network)

#if LANES > 1
typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef float quad __attribute__((vector_size(16), aligned(4), may_alias));
typedef uint32_t whole __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t NAMED(integers) __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef signed char NAMED(bytes) __attribute__((vector_size(LANES), aligned(1), may_alias));
enum { NAMED(QUAD) = 4 };
#else
typedef float vec;
typedef float quad;
typedef uint32_t whole;
enum { NAMED(QUAD) = 1 };
#endif

INLINE vec NAMED(load)(const float *at)
{
    return *(const vec *)at;
}

INLINE void NAMED(store)(float *at, vec value)
{
    *(vec *)at = value;
}

INLINE vec NAMED(load_weights)(const weight *at)
{
#if !defined(DEEPNMF_INT8)
    return *(const vec *)at;
#elif LANES > 1
    return __builtin_convertvector(*(const NAMED(bytes) *)at, vec);
#else
    return (vec)*at;
#endif
}

INLINE vec NAMED(all)(float value)
{
#if LANES == 8
    const vec x = {value, value, value, value, value, value, value, value};
#elif LANES == 4
    const vec x = {value, value, value, value};
#else
    const vec x = value;
#endif
    return x;
}

INLINE vec NAMED(smaller)(vec x, vec y)
{
#if LANES == 8
    return (vec)_mm256_min_ps((__m256)x, (__m256)y);
#elif LANES == 4 && defined(__SSE2__)
    return (vec)_mm_min_ps((__m128)x, (__m128)y);
#elif LANES == 4 && defined(__aarch64__)
    return (vec)vminq_f32((float32x4_t)x, (float32x4_t)y);
#elif LANES > 1
    int k;
    for (k = 0; k < LANES; k++) x[k] = x[k] < y[k] ? x[k] : y[k];
    return x;
#else
    return x < y ? x : y;
#endif
}

INLINE vec NAMED(larger)(vec x, vec y)
{
#if LANES == 8
    return (vec)_mm256_max_ps((__m256)x, (__m256)y);
#elif LANES == 4 && defined(__SSE2__)
    return (vec)_mm_max_ps((__m128)x, (__m128)y);
#elif LANES == 4 && defined(__aarch64__)
    return (vec)vmaxq_f32((float32x4_t)x, (float32x4_t)y);
#elif LANES > 1
    int k;
    for (k = 0; k < LANES; k++) x[k] = x[k] > y[k] ? x[k] : y[k];
    return x;
#else
    return x > y ? x : y;
#endif
}

INLINE vec NAMED(root)(vec x)
{
#if LANES == 8
    return (vec)_mm256_sqrt_ps((__m256)x);
#elif LANES == 4 && defined(__SSE2__)
    return (vec)_mm_sqrt_ps((__m128)x);
#elif LANES == 4 && defined(__aarch64__)
    return (vec)vsqrtq_f32((float32x4_t)x);
#elif LANES > 1
    int k;
    for (k = 0; k < LANES; k++) x[k] = sqrtf(x[k]);
    return x;
#else
    return sqrtf(x);
#endif
}

INLINE whole NAMED(bits_of)(vec x)
{
    whole bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

INLINE vec NAMED(number_of)(whole bits)
{
    vec x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

INLINE vec NAMED(bounded)(vec x, float limit)
{
    return NAMED(larger)(NAMED(smaller)(x, NAMED(all)(limit)), NAMED(all)(-limit));
}

INLINE float NAMED(total)(vec x)
{
#if LANES > 1
    float sum = 0;
    int k;
    for (k = 0; k < LANES; k++) sum += x[k];
    return sum;
#else
    return x;
#endif
}

/* Functions ------------------------------------------------------------------------------------------------------ */

/* exp(x) with a relative error of 2e-7, for x in [-87, 87]: 2^k times a polynomial in |r| <= log(2)/2 (Cephes). */
INLINE vec NAMED(exponential)(vec x)
{
    const float shift = 12582912.0f;  /* 1.5 * 2^23: adding it rounds to an integer, in the lowest bits */
    vec t = x * 1.44269504f + shift, k = t - shift, r = x - k * 0.693359375f, p;
    r = r + k * 2.12194440e-4f;
    p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    return p * NAMED(number_of)((NAMED(bits_of)(t) << 23) + 0x3F800000u);
}

/* log(x) to 2e-7, for normal x > 0: k log 2 plus a polynomial in |r| < 0.42 (Cephes), x = 2^k (1 + r). */
INLINE vec NAMED(logarithm)(vec x)
{
    whole bits = NAMED(bits_of)(x) - 0x3F3504F3u;   /* sqrt(1/2), which becomes zero */
    whole high = (bits >> 23) + (bits >> 31) * 0xFFFFFE00u;   /* k: shifted with its sign */
    vec k, p, r = NAMED(number_of)(NAMED(bits_of)(x) - (high << 23)) - 1.0f, square = r * r;
#if LANES > 1
    k = __builtin_convertvector((NAMED(integers))high, vec);
#else
    k = (float)(int32_t)high;
#endif
    p = r * 7.0376836292e-2f - 1.1514610310e-1f;
    p = p * r + 1.1676998740e-1f;
    p = p * r - 1.2420140846e-1f;
    p = p * r + 1.4249322787e-1f;
    p = p * r - 1.6668057665e-1f;
    p = p * r + 2.0000714765e-1f;
    p = p * r - 2.4999993993e-1f;
    p = p * r + 3.3333331174e-1f;
    return r + (p * r - 0.5f) * square + k * 0.69314718f;
}

/* x^c for 0 <= x <= 1e30; smaller x than 1e-37 are replaced by 1e-37. */
INLINE vec NAMED(power)(vec x, float c)
{
    return NAMED(exponential)(NAMED(logarithm)(NAMED(larger)(x, NAMED(all)(1e-37f))) * c);
}

INLINE vec NAMED(sigmoid)(vec x)
{
    return 1.0f / (1.0f + NAMED(exponential)(-NAMED(bounded)(x, 87.0f)));
}

/* y = begin + x W, or begin + scales * (x W), of a few rows and vectors of outputs, whose sums stay in registers. */
INLINE void NAMED(tile)(
    float *y, const float *begin, int outputs, const weight *RESTRICT w, const float *RESTRICT scales, const float *RESTRICT x,
    int x_stride, int inputs, const int rows, const int width)
{
    vec sum[24];
    int i, r, v;
UNROLL
    for (r = 0; r < rows; r++)
UNROLL
        for (v = 0; v < width; v++) {
#ifdef DEEPNMF_INT8
            sum[r * width + v] = NAMED(all)(0);
#else
            sum[r * width + v] = NAMED(load)(begin + r * outputs + v * LANES);
#endif
        }
    for (i = 0; i < inputs; i++) {
        vec row[12];
UNROLL
        for (v = 0; v < width; v++) row[v] = NAMED(load_weights)(w + i * outputs + v * LANES);
UNROLL
        for (r = 0; r < rows; r++) {
            vec value = NAMED(all)(x[r * x_stride + i]);
UNROLL
            for (v = 0; v < width; v++) sum[r * width + v] += value * row[v];
        }
    }
UNROLL
    for (r = 0; r < rows; r++)
UNROLL
        for (v = 0; v < width; v++) {
#ifdef DEEPNMF_INT8
            const int at = r * outputs + v * LANES;
            NAMED(store)(y + at, NAMED(load)(begin + at) + NAMED(load)(scales + v * LANES) * sum[r * width + v]);
#else
            NAMED(store)(y + r * outputs + v * LANES, sum[r * width + v]);
#endif
        }
    (void)scales;
}

#define TILES_OF(rows, width)                                                                                        \
    for (; n + rows <= count; n += rows)                                                                             \
        NAMED(tile)(y + n * outputs + at, begin + n * outputs + at, outputs, w + at, s, x + n * x_stride, x_stride, inputs, \
            rows, width);
#define TILES(rows, width)                                                                                           \
    {                                                                                                                \
        n = 0;                                                                                                       \
        TILES_OF(rows, width)                                                                                        \
        TILES_OF(1, width)                                                                                           \
        at += width * LANES;                                                                                         \
    }

/* y = begin + x W, (count, outputs), where x has rows of inputs x_stride apart, and W is the matrix of a layer, which
 * starts at row `first` of the values; outputs is a multiple of BLOCK. `begin` may be y itself. */
SEPARATE static void NAMED(products)(
    float *y, const float *begin, const matrix *m, int layer, int first, const float *x, int count, int x_stride, int inputs,
    int outputs)
{
    const weight *w = m->values + (size_t)first * (size_t)outputs;
    const float *scales = m->scales ? m->scales + (size_t)layer * (size_t)outputs : NULL;
    int at = 0, n;
    while (at < outputs) {
        const float *s = scales ? scales + at : NULL;
        int left = (outputs - at) / LANES;
        if (count == 1 && left >= 6)
            TILES(1, 6)
        else if (left == 3 || left > 4)
            TILES(4, 3)
        else if (left >= 2)
            TILES(4, 2)
        else
            TILES(8, 1)
    }
}

#undef TILES_OF
#undef TILES

/* Spins h relax towards targets t = tanh(x) by schedules g = sigmoid(y), (14)-(15). xy holds x and then y of `spins`,
 * replaced by g t and g. The tanh is a quotient p / q of polynomials, by least squares, with an error of 5e-7; with
 * g = 1 / (1 + e^-y), whose relative error is 3e-7, one division is enough for both. Beyond the bounds, both have their
 * values at the bounds, to single precision. */
INLINE void NAMED(answer)(float *xy, int spins)
{
    int j;
    for (j = 0; j < spins; j += LANES) {
        vec x = NAMED(bounded)(NAMED(load)(xy + j), 8.0f), z = x * x, p, q, against, share;
        against = 1.0f + NAMED(exponential)(-NAMED(bounded)(NAMED(load)(xy + spins + j), 40.0f));
        p = z * 1.1310298641e-5f + 2.9388354026e-3f;
        p = p * z + 1.2913648779e-1f;
        p = (p * z + 9.9999936229e-1f) * x;
        q = z * 2.4238635542e-7f + 2.3702951022e-4f;
        q = q * z + 2.3763859539e-2f;
        q = q * z + 4.6246747580e-1f;
        q = q * z + 1.0f;
        share = 1.0f / (q * against);
        NAMED(store)(xy + j, p * share);
        NAMED(store)(xy + spins + j, q * share);
    }
}

/* h += g t - g h, and field += h if there is a field. */
INLINE void NAMED(relax)(float *h, const float *answers, int spins, float *field)
{
    int j;
    for (j = 0; j < spins; j += LANES) {
        vec value = NAMED(load)(h + j);
        value += NAMED(load)(answers + j) - NAMED(load)(answers + spins + j) * value;
        NAMED(store)(h + j, value);
        if (field) NAMED(store)(field + j, NAMED(load)(field + j) + value);
    }
}

/* The same along frequency, for a few vectors of upward spins and of downward spins, which stay in registers. */
INLINE void NAMED(sweep)(
    float *RESTRICT chains, const float *RESTRICT answers, int nodes, int spins, const int width)
{
    const int size = NAMED(QUAD), half = spins / 2;
    quad up[3], down[3];
    int n, v;
UNROLL
    for (v = 0; v < width; v++) memset(&up[v], 0, sizeof up[v]), memset(&down[v], 0, sizeof down[v]);
    for (n = 0; n < nodes; n++) {
        const float *a = answers + 2 * n * spins, *b = answers + 2 * (nodes - 1 - n) * spins + half;
        float *x = chains + n * spins, *y = chains + (nodes - 1 - n) * spins + half;
UNROLL
        for (v = 0; v < width; v++) {
            up[v] += *(const quad *)(a + size * v) - *(const quad *)(a + spins + size * v) * up[v];
            down[v] += *(const quad *)(b + size * v) - *(const quad *)(b + spins + size * v) * down[v];
            *(quad *)(x + size * v) = up[v];
            *(quad *)(y + size * v) = down[v];
        }
    }
}

/* Fourier transforms --------------------------------------------------------------------------------------------- */

/* Butterflies of four numbers, or of four vectors of them, with turns c + i s. */
#define BUTTERFLY(type, at, c1, s1, c2, s2, c3, s3)                                                              \
    type r0 = at(ar, 0), i0 = at(ai, 0), r1 = at(ar, 1), i1 = at(ai, 1), r2 = at(ar, 2), i2 = at(ai, 2);         \
    type r3 = at(ar, 3), i3 = at(ai, 3), r02 = r0 + r2, i02 = i0 + i2, d02 = r0 - r2, e02 = i0 - i2;             \
    type r13 = r1 + r3, i13 = i1 + i3, d13 = r1 - r3, e13 = i1 - i3;                                             \
    type u1 = d02 + e13, v1 = e02 - d13, u2 = r02 - r13, v2 = i02 - i13, u3 = d02 - e13, v3 = e02 + d13;         \
    type o0 = r02 + r13, p0 = i02 + i13, o1 = u1 * c1 - v1 * s1, p1 = u1 * s1 + v1 * c1;                         \
    type o2 = u2 * c2 - v2 * s2, p2 = u2 * s2 + v2 * c2, o3 = u3 * c3 - v3 * s3, p3 = u3 * s3 + v3 * c3

/* A pass of radix 4: m groups of butterflies with `stride` columns each. */
#define COLUMNS(type, by)                                                                                        \
    for (q = 0; q < stride; q += by) {                                                                           \
        BUTTERFLY(type, AT_##type, c1, s1, c2, s2, c3, s3);                                                      \
        *(type *)(br + q) = o0, *(type *)(bi + q) = p0;                                                          \
        *(type *)(br + q + stride) = o1, *(type *)(bi + q + stride) = p1;                                        \
        *(type *)(br + q + 2 * stride) = o2, *(type *)(bi + q + 2 * stride) = p2;                                \
        *(type *)(br + q + 3 * stride) = o3, *(type *)(bi + q + 3 * stride) = p3;                                \
    }
#define AT_vec(x, k) (*(const vec *)(x + q + k * step))
#define AT_quad(x, k) (*(const quad *)(x + q + k * step))

INLINE void NAMED(pass4)(
    const small_fft *f, int m, int stride, const float *RESTRICT xr, const float *RESTRICT xi, float *RESTRICT yr,
    float *RESTRICT yi)
{
    int p, q;
    const int step = m * stride;
    for (p = 0; p < m; p++) {
        const float c1 = f->cosine[p * stride], s1 = f->sine[p * stride];
        const float c2 = f->cosine[2 * p * stride], s2 = f->sine[2 * p * stride];
        const float c3 = f->cosine[3 * p * stride], s3 = f->sine[3 * p * stride];
        const float *ar = xr + p * stride, *ai = xi + p * stride;
        float *br = yr + 4 * p * stride, *bi = yi + 4 * p * stride;
        if (stride % LANES == 0)
            COLUMNS(vec, LANES)
        else
            COLUMNS(quad, NAMED(QUAD))
    }
}

/* The first pass of radix 4, stride 1: vectors along the groups. */
INLINE void NAMED(pass4_first)(
    const small_fft *f, const float *RESTRICT ar, const float *RESTRICT ai, float *RESTRICT yr, float *RESTRICT yi)
{
    const int m = f->n / 4;
    const float *t = f->first;
    int p;
    for (p = 0; p < m; p++) {
#define AT(x, k) x[p + k * m]
        BUTTERFLY(float, AT, t[p], t[m + p], t[2 * m + p], t[3 * m + p], t[4 * m + p], t[5 * m + p]);
        yr[4 * p] = o0, yr[4 * p + 1] = o1, yr[4 * p + 2] = o2, yr[4 * p + 3] = o3;
        yi[4 * p] = p0, yi[4 * p + 1] = p1, yi[4 * p + 2] = p2, yi[4 * p + 3] = p3;
    }
}

#undef BUTTERFLY
#undef COLUMNS
#undef AT_vec
#undef AT_quad
#undef AT

INLINE void NAMED(pass_any)(
    const small_fft *f, int r, int m, int stride, const float *RESTRICT xr, const float *RESTRICT xi,
    float *RESTRICT yr, float *RESTRICT yi)
{
    int p, j, k, q, n = f->n;
    for (p = 0; p < m; p++)
        for (j = 0; j < r; j++) {
            float *br = yr + (r * p + j) * stride, *bi = yi + (r * p + j) * stride;
            for (q = 0; q < stride; q++) br[q] = bi[q] = 0;
            for (k = 0; k < r; k++) {
                int at = (int)(((int64_t)j * k % r * (n / r) + (int64_t)p * j * stride) % n);
                const float c = f->cosine[at], s = f->sine[at];
                const float *ar = xr + (p + m * k) * stride, *ai = xi + (p + m * k) * stride;
                for (q = 0; q < stride; q++) {
                    br[q] += ar[q] * c - ai[q] * s;
                    bi[q] += ar[q] * s + ai[q] * c;
                }
            }
        }
}

/* Transform re + i im (n) in place; exchange re and im for the inverse transform, times n. */
SEPARATE static void small_transform(const small_fft *f, float *re, float *im)
{
    int number, stride = 1, left = f->n;
    float *xr = re, *xi = im, *yr = f->work_re, *yi = f->work_im;
    for (number = 0; number < f->factors; number++) {
        int r = f->radix[number], m = left / r;
        float *swap;
        if (r == 4 && stride == 1)
            NAMED(pass4_first)(f, xr, xi, yr, yi);
        else if (r == 4)
            NAMED(pass4)(f, m, stride, xr, xi, yr, yi);
        else
            NAMED(pass_any)(f, r, m, stride, xr, xi, yr, yi);
        swap = xr, xr = yr, yr = swap;
        swap = xi, xi = yi, yi = swap;
        left = m;
        stride *= r;
    }
    if (xr != re) {
        memcpy(re, xr, (size_t)f->n * sizeof(float));
        memcpy(im, xi, (size_t)f->n * sizeof(float));
    }
}

static void NAMED(complex_transform)(const complex_fft *f, float *re, float *im)
{
    int k;
    size_t rest;
    if (!f->padded) {
        small_transform(&f->fft, re, im);
        return;
    }
    rest = (size_t)(f->padded - f->n) * sizeof(float);
    for (k = 0; k < f->n; k++) {
        f->re[k] = re[k] * f->chirp_re[k] - im[k] * f->chirp_im[k];
        f->im[k] = re[k] * f->chirp_im[k] + im[k] * f->chirp_re[k];
    }
    memset(f->re + f->n, 0, rest);
    memset(f->im + f->n, 0, rest);
    small_transform(&f->fft, f->re, f->im);
    for (k = 0; k < f->padded; k++) {
        float u = f->re[k] * f->kernel_re[k] - f->im[k] * f->kernel_im[k];
        f->im[k] = f->re[k] * f->kernel_im[k] + f->im[k] * f->kernel_re[k];
        f->re[k] = u;
    }
    small_transform(&f->fft, f->im, f->re);  /* the inverse */
    for (k = 0; k < f->n; k++) {
        re[k] = f->re[k] * f->chirp_re[k] - f->im[k] * f->chirp_im[k];
        im[k] = f->re[k] * f->chirp_im[k] + f->im[k] * f->chirp_re[k];
    }
}

/* Spectrum re + i im (n / 2 + 1) of x (n). */
static void NAMED(forward)(const real_fft *f, const float *RESTRICT x, float *RESTRICT re, float *RESTRICT im)
{
    int k, m = f->half.n;
    if (f->n % 2) {
        memcpy(f->re, x, (size_t)f->n * sizeof(float));
        memset(f->im, 0, (size_t)f->n * sizeof(float));
        NAMED(complex_transform)(&f->half, f->re, f->im);
        memcpy(re, f->re, (size_t)(f->n / 2 + 1) * sizeof(float));
        memcpy(im, f->im, (size_t)(f->n / 2 + 1) * sizeof(float));
        return;
    }
    for (k = 0; k < m; k++) {
        f->re[k] = x[2 * k];
        f->im[k] = x[2 * k + 1];
    }
    NAMED(complex_transform)(&f->half, f->re, f->im);
    re[0] = f->re[0] + f->im[0];
    re[m] = f->re[0] - f->im[0];
    im[0] = im[m] = 0;
    for (k = 1; k < m; k++) {
        float er = 0.5f * (f->re[k] + f->re[m - k]), ei = 0.5f * (f->im[k] - f->im[m - k]);
        float our = 0.5f * (f->im[k] + f->im[m - k]), oui = 0.5f * (f->re[m - k] - f->re[k]);
        re[k] = er + our * f->cosine[k] - oui * f->sine[k];
        im[k] = ei + our * f->sine[k] + oui * f->cosine[k];
    }
}

/* x (n) from its spectrum (n / 2 + 1), whose imaginary parts at 0 and at the Nyquist frequency are ignored. */
static void NAMED(backward)(const real_fft *f, const float *RESTRICT re, const float *RESTRICT im, float *RESTRICT x)
{
    int k, m = f->half.n, n = f->n;
    const float scale = 1.0f / (float)m;
    if (n % 2) {
        f->re[0] = re[0];
        f->im[0] = 0;
        for (k = 1; k <= n / 2; k++) {
            f->re[k] = f->re[n - k] = re[k];
            f->im[k] = im[k];
            f->im[n - k] = -im[k];
        }
        NAMED(complex_transform)(&f->half, f->im, f->re);
        for (k = 0; k < n; k++) x[k] = scale * f->re[k];
        return;
    }
    f->re[0] = 0.5f * (re[0] + re[m]);
    f->im[0] = 0.5f * (re[0] - re[m]);
    for (k = 1; k < m; k++) {
        float er = 0.5f * (re[k] + re[m - k]), ei = 0.5f * (im[k] - im[m - k]);
        float dr = 0.5f * (re[k] - re[m - k]), di = 0.5f * (im[k] + im[m - k]);
        float our = dr * f->cosine[k] + di * f->sine[k], oui = di * f->cosine[k] - dr * f->sine[k];
        f->re[k] = er - oui;
        f->im[k] = ei + our;
    }
    NAMED(complex_transform)(&f->half, f->im, f->re);
    for (k = 0; k < m; k++) {
        x[2 * k] = scale * f->re[k];
        x[2 * k + 1] = scale * f->im[k];
    }
}

/* Network -------------------------------------------------------------------------------------------------------- */

static float NAMED(running_level)(deepnmf *d)
{
    double sums[8] = {0}, sum = 0;
    const int bins = d->model->bins;
    float power, weighted;
    int k, j;
    for (k = 0; k + 8 <= bins; k += 8)
        for (j = 0; j < 8; j++) sums[j] += (double)d->magnitude[k + j] * d->magnitude[k + j];
    for (; k < bins; k++) sum += (double)d->magnitude[k] * d->magnitude[k];
    for (j = 0; j < 8; j++) sum += sums[j];
    power = (float)(sum / bins);
    if (power > SILENCE * SILENCE) {
        d->power += (power - d->power) / LEVEL_FRAMES;
        d->weight += (1 - d->weight) / LEVEL_FRAMES;
    }
    weighted = d->weight > 1.0f / LEVEL_FRAMES ? d->weight : 1.0f / LEVEL_FRAMES;
    power = sqrtf(d->power / weighted);
    return power > SILENCE ? power : SILENCE;
}

static void NAMED(layer)(deepnmf *d, int k)
{
    const deepnmf_model *m = d->model;
    const int nodes = d->nodes, spins = m->spins, size = nodes * spins;
    const int wide = 2 * spins, frame = m->frame_spins, rank = m->frame_rank, room = filled_up(rank);
    float *field = d->field, *xy = d->answers, *h = d->node_spins + k * size;
    int n, j;
    NAMED(products)(xy, m->time_bias + 2 * k * size, &m->time_weight, k, k * spins, field, nodes, spins, spins, wide);
    for (n = 0; n < nodes; n++) {
        NAMED(answer)(xy + n * wide, spins);
        NAMED(relax)(h + n * spins, xy + n * wide, spins, field + n * spins);
    }
    /* Along frequency the first half of the spins goes up, the other down. */
    NAMED(products)(xy, m->frequency_bias + 2 * k * size, &m->frequency_weight, k, k * spins, field, nodes, spins, spins, wide);
    for (n = 0; n < nodes; n++) NAMED(answer)(xy + n * wide, spins);
    for (j = 0; j < spins / 2;) {
        int left = (spins / 2 - j) / NAMED(QUAD), width = left == 3 || left > 4 ? 3 : left >= 2 ? 2 : 1;
        if (width == 3)
            NAMED(sweep)(d->chains + j, xy + j, nodes, spins, 3);
        else if (width == 2)
            NAMED(sweep)(d->chains + j, xy + j, nodes, spins, 2);
        else
            NAMED(sweep)(d->chains + j, xy + j, nodes, spins, 1);
        j += width * NAMED(QUAD);
    }
    NAMED(products)(field, field, &m->frequency_join, k, k * spins, d->chains, nodes, spins, spins, spins);
    if (frame) {
        float *answers = d->frame_answers, *own = d->frame_spins + k * frame;
        const int sent = d->sent, told = filled_up(d->sent);
        memset(d->apart, 0, (size_t)(nodes * room) * sizeof(float));
        memset(d->told, 0, (size_t)told * sizeof(float));
        NAMED(products)(d->apart, d->apart, &m->frame_send, k, k * spins, field, nodes, spins, spins, room);
        for (n = 0; n < nodes; n++)
            for (j = 0; j < rank; j++) d->sent_by_nodes[n * rank + j] = d->apart[n * room + j];
        NAMED(products)(answers, m->frame_bias + 2 * k * frame, &m->frame_weight, k, k * sent, d->sent_by_nodes, 1, 0, sent, 2 * frame);
        NAMED(answer)(answers, frame);
        NAMED(relax)(own, answers, frame, NULL);
        NAMED(products)(d->told, d->told, &m->frame_spread, k, k * frame, own, 1, 0, frame, told);
        NAMED(products)(field, field, &m->frame_receive, k, k * rank, d->told, nodes, rank, rank, spins);
    }
}

/* Add the sums of x (count) times a and of x times b to `one` and `other`. */
INLINE void NAMED(two_sums)(const float *x, const float *a, const float *b, int count, float *one, float *other)
{
    vec sum = NAMED(all)(0), also = NAMED(all)(0);
    float rest = 0, also_rest = 0;
    int k;
    for (k = 0; k + LANES <= count; k += LANES) {
        sum += NAMED(load)(x + k) * NAMED(load)(a + k);
        also += NAMED(load)(x + k) * NAMED(load)(b + k);
    }
    for (; k < count; k++) {
        rest += x[k] * a[k];
        also_rest += x[k] * b[k];
    }
    *one += rest + NAMED(total)(sum);
    *other += also_rest + NAMED(total)(also);
}

/* Compute the speech mask from d->magnitude and, with phase, from d->products. */
static void network(deepnmf *d)
{
    const deepnmf_model *m = d->model;
    const int nodes = d->nodes, spins = m->spins, single = m->single_bands, room = (int)band_room(d);
    const int node = m->bands_per_node, window = node + 2 * m->neighbours, above = m->bins - single;
    const float scale = 1 / NAMED(running_level)(d), compression = (float)m->compression;
    float *newest = d->past + (m->context - 1) * room, *bands = newest + m->neighbours;
    float *re = d->mask_re, *im = d->mask_im, *speech = d->speech;
    int n, k, p, b;

    memmove(d->past, d->past + room, (size_t)((m->context - 1) * room) * sizeof(float));
    memset(newest, 0, (size_t)room * sizeof(float));
    memset(d->wide, 0, (size_t)(m->wide_bands + 1) * sizeof(float));
    for (b = 0; b < m->wide_bands; b++) {
        const int from = m->segments[b], count = m->segments[b + 1] - from;
        NAMED(two_sums)(
            d->magnitude + single + from, m->pool + from, m->pool + above + from, count, d->wide + b, d->wide + b + 1);
    }
    memcpy(bands, d->magnitude, (size_t)single * sizeof(float));
    memcpy(bands + single, d->wide, (size_t)m->wide_bands * sizeof(float));
    for (k = 0; k < d->bands; k += LANES) NAMED(store)(bands + k, NAMED(power)(NAMED(load)(bands + k) * scale, compression));
    memset(bands + d->bands, 0, (size_t)(room - m->neighbours - d->bands) * sizeof(float));
    for (p = 0; p < m->context; p++)
        NAMED(products)(
            d->field, p ? d->field : m->observe_bias, &m->observe_weight, 0, p * window, d->past + p * room, nodes, node, window, spins);
    if (d->phase_nodes) {
        const vec quiet = NAMED(all)((float)m->quiet);
        const float square = scale * scale;
        for (p = 0; p < 4; p += 2) {
            float *turned = d->turned + p * room + m->neighbours;
            for (k = 0; k < single; k += LANES) {
                vec x = NAMED(load)(d->products[p] + k) * square, y = NAMED(load)(d->products[p + 1] + k) * square;
                vec gain = NAMED(power)(NAMED(larger)(x * x + y * y, quiet), (compression - 1) / 2);
                NAMED(store)(turned + k, x * gain);
                NAMED(store)(turned + room + k, y * gain);
            }
            memset(turned + single, 0, (size_t)(room - m->neighbours - single) * sizeof(float));
            memset(turned + room + single, 0, (size_t)(room - m->neighbours - single) * sizeof(float));
        }
        for (p = 0; p < 4; p++)
            NAMED(products)(
                d->field, d->field, &m->phase_weight, 0, p * window, d->turned + p * room, d->phase_nodes, node, window, spins);
    }
    for (k = 0; k < m->layers; k++) NAMED(layer)(d, k);
    for (n = 0; n < nodes; n++) memcpy(d->read + n * d->readout, m->read_bias, (size_t)d->readout * sizeof(float));
    NAMED(products)(d->read, d->read, &m->read_weight, 0, 0, d->field, nodes, spins, spins, d->readout);
    for (n = 0; n < nodes; n++)
        for (p = 0; p < node; p++) speech[n * node + p] = d->read[n * d->readout + p];
    for (k = 0; k < d->bands; k += LANES) NAMED(store)(speech + k, NAMED(sigmoid)(NAMED(load)(speech + k)));
    speech[d->bands] = 0;
    memcpy(re, speech, (size_t)single * sizeof(float));
    for (b = 0; b < m->wide_bands; b++) {
        const float own = speech[single + b], next = speech[single + b + 1];
        for (k = m->segments[b]; k < m->segments[b + 1]; k++) re[single + k] = m->spread[k] * own + m->spread[above + k] * next;
    }
    memset(im, 0, (size_t)m->bins * sizeof(float));
    for (n = 0; n < d->phase_nodes; n++)
        for (p = 0; p < node; p++) {
            const float *turn = d->read + n * d->readout + node + 2 * p;
            float x = re[n * node + p] + turn[0], y = turn[1], size = x * x + y * y;
            float shrink = 1 / sqrtf(size > 1 ? size : 1);
            re[n * node + p] = x * shrink;
            im[n * node + p] = y * shrink;
        }
}

/* From waveform to waveform -------------------------------------------------------------------------------------- */

/* Means over channels of magnitudes and of products X conj(Y), which are scaled for channels that differ by gains; the
 * turns of a hop are undone. Only for the bins that the network takes. */
static void NAMED(features)(deepnmf *d)
{
    const deepnmf_model *m = d->model;
    const int channels = d->channels, bins = d->bins < m->bins ? d->bins : m->bins;
    const int single = d->bins < m->single_bands ? d->bins : m->single_bands;
    const float share = 1 / (float)channels;
    int c, k, kind;
    memset(d->magnitude, 0, (size_t)m->bins * sizeof(float));
    for (c = 0; c < channels; c++) {
        const float *re = d->re + c * d->bins, *im = d->im + c * d->bins;
        float *sum = d->magnitude;
        for (k = 0; k + LANES <= bins; k += LANES) {
            vec x = NAMED(load)(re + k), y = NAMED(load)(im + k);
            NAMED(store)(sum + k, NAMED(load)(sum + k) + NAMED(root)(x * x + y * y) * share);
        }
        for (; k < bins; k++) sum[k] += sqrtf(re[k] * re[k] + im[k] * im[k]) * share;
    }
    for (kind = 0; kind < 2 && d->phase_nodes; kind++) {
        float *x = d->products[2 * kind], *y = d->products[2 * kind + 1];
        float *one = d->product, *other = one + single, *both = other + single;
        memset(x, 0, (size_t)m->single_bands * sizeof(float));
        memset(y, 0, (size_t)m->single_bands * sizeof(float));
        memset(one, 0, 3 * (size_t)single * sizeof(float));
        for (c = 0; c < channels; c++) {
            const float *re = d->re + c * d->bins, *im = d->im + c * d->bins;
            const float *ur = kind ? re + 1 : d->before_re + c * m->single_bands;
            const float *ui = kind ? im + 1 : d->before_im + c * m->single_bands;
            int last = kind && single == d->bins ? single - 1 : single;   /* nothing is above the last bin */
            for (k = 0; k < last; k++) {
                x[k] += (re[k] * ur[k] + im[k] * ui[k]) * share;
                y[k] += (im[k] * ur[k] - re[k] * ui[k]) * share;
            }
            if (channels > 1)
                for (k = 0; k < last; k++) {
                    float size = sqrtf(re[k] * re[k] + im[k] * im[k]), its = sqrtf(ur[k] * ur[k] + ui[k] * ui[k]);
                    one[k] += size * share;
                    other[k] += its * share;
                    both[k] += size * its * share;
                }
        }
        if (channels > 1)
            for (k = 0; k < single; k++) {
                float gain = one[k] * other[k] / (both[k] > SMALLEST ? both[k] : SMALLEST);
                x[k] *= gain;
                y[k] *= gain;
            }
        if (!kind)
            for (k = 0; k < single; k++) {
                const float *turn = m->hop_turn + 2 * (k % m->window_hops);
                float turned = x[k] * turn[0] - y[k] * turn[1];
                y[k] = x[k] * turn[1] + y[k] * turn[0];
                x[k] = turned;
            }
    }
    for (c = 0; c < channels; c++) {
        memcpy(d->before_re + c * m->single_bands, d->re + c * d->bins, (size_t)single * sizeof(float));
        memcpy(d->before_im + c * m->single_bands, d->im + c * d->bins, (size_t)single * sizeof(float));
    }
}

/* Return the mean power over all channels of bins from `first` to before `end`; `left` gets what the mask leaves. */
static float NAMED(band_power)(const deepnmf *d, int first, int end, float *left)
{
    const float share = 1.0f / (float)(d->channels * (end > first ? end - first : 1));
    vec all = NAMED(all)(0), kept = NAMED(all)(0);
    float sum = 0, rest = 0;
    int c, k;
    for (c = 0; c < d->channels; c++) {
        const float *re = d->re + c * d->bins, *im = d->im + c * d->bins;
        for (k = first; k + LANES <= end; k += LANES) {
            vec x = NAMED(load)(re + k), y = NAMED(load)(im + k), power = x * x + y * y;
            all += power;
            if (left) {
                x = NAMED(load)(d->mask_re + k), y = NAMED(load)(d->mask_im + k);
                kept += power * (x * x + y * y);
            }
        }
        for (; k < end; k++) {
            float power = re[k] * re[k] + im[k] * im[k];
            sum += power;
            if (left) rest += power * (d->mask_re[k] * d->mask_re[k] + d->mask_im[k] * d->mask_im[k]);
        }
    }
    if (left) *left = (rest + NAMED(total)(kept)) * share;
    return (sum + NAMED(total)(all)) * share;
}

/* Compute what gains above the reach need: `inputs`, and the gain of the highest band below, which is returned. */
static float NAMED(inputs_above)(deepnmf *d, const int *starts, float *inputs)
{
    const deepnmf_model *m = d->model;
    const float far = (float)m->farthest;
    float levels[3 * BLOCK] = {0}, *below = levels, *kept = levels + BLOCK, *above = levels + 2 * BLOCK;
    float rates[2 * BLOCK], highest, *over = inputs + BELOW + 2;
    int b, i, k;
    for (b = 0; b < BELOW; b++) below[b] = NAMED(band_power)(d, m->below_ends[b], m->below_ends[b + 1], kept + b);
    for (b = 0; b < ABOVE; b++) above[b] = NAMED(band_power)(d, starts[b], starts[b + 1], NULL);
    highest = within(sqrtf((kept[BELOW - 1] + SMALLEST) / (below[BELOW - 1] + SMALLEST)), 0, 1);
    for (k = 0; k < 3 * BLOCK; k += LANES)
        NAMED(store)(levels + k, NAMED(logarithm)(NAMED(load)(levels + k) + (float)m->silent));
    for (b = 0; b < BELOW; b++) inputs[b] = within(kept[b] - below[b], -far, 0);
    inputs[BELOW] = within(kept[4] - kept[1], -far, far);
    inputs[BELOW + 1] = within(below[4] - below[1], -far, far);
    for (b = 0; b < ABOVE; b++) over[b] = starts[b] < starts[b + 1] ? within(above[b] - kept[4], -far, far) : 0;
    affine(m->above_rate, m->above_rate_bias, inputs, BELOW, filled_up(2 * ABOVE), rates);
    for (k = 0; k < 2 * BLOCK; k += LANES) NAMED(store)(rates + k, NAMED(sigmoid)(NAMED(load)(rates + k)));
    for (i = 0; i < 2 * ABOVE; i++) {
        b = i % ABOVE;
        if (!d->begun) d->averages[i] = above[b];
        d->averages[i] += rates[i] * (above[b] - d->averages[i]);
        over[ABOVE + i] = starts[b] < starts[b + 1] ? within(above[b] - d->averages[i], -far, far) : 0;
    }
    return highest;
}

/* The mask above the reach of the network, a gain for each band: `above_gains` of deepnmf_cli/signal/masks.py. */
static void NAMED(mask_above)(deepnmf *d)
{
    const deepnmf_model *m = d->model;
    float inputs[ABOVE_INPUTS], gains[BLOCK], highest, *aims = d->aims_above, *rates = aims + m->above_spins;
    int starts[ABOVE + 1], b, k;
    for (b = 0, k = m->bins; b < ABOVE; b++) {
        starts[b] = k;
        while (k < d->bins && (b + 1 == ABOVE || k <= m->above_edges[b + 1] * (double)(m->bins - 1))) k++;
    }
    starts[ABOVE] = d->bins;
    highest = NAMED(inputs_above)(d, starts, inputs);
    affine(m->above_spin, m->above_spin_bias, inputs, ABOVE_INPUTS, m->above_spins, aims);
    affine(m->above_spin_rate, m->above_spin_rate_bias, inputs, ABOVE_INPUTS, m->above_spins, rates);
    NAMED(answer)(aims, m->above_spins);
    if (d->begun) NAMED(relax)(d->spins_above, aims, m->above_spins, NULL);
    else
        for (k = 0; k < m->above_spins; k++) d->spins_above[k] = aims[k] / rates[k];
    affine(m->above_gain, m->above_gain_bias, d->spins_above, m->above_spins, BLOCK, gains);
    for (k = 0; k < BLOCK; k += LANES) {
        vec odds = highest * NAMED(exponential)(NAMED(bounded)(NAMED(load)(gains + k), 87.0f));
        NAMED(store)(gains + k, odds / (1.0f - highest + odds));
    }
    for (b = 0; b < ABOVE; b++)
        for (k = starts[b]; k < starts[b + 1]; k++) {
            d->mask_re[k] = gains[b];
            d->mask_im[k] = 0;
        }
}

/* Complete the mask for all bins of this rate, attenuated no further than allowed. Return its smallest modulus. */
static float NAMED(complete_mask)(deepnmf *d)
{
    float *re = d->mask_re, *im = d->mask_im, smallest = INFINITY;
    vec least = NAMED(all)(INFINITY);
    int k;
    if (d->bins > d->model->bins) NAMED(mask_above)(d);
    if (d->floor > 0)
        for (k = 0; k < d->bins; k++) {
            float size = sqrtf(re[k] * re[k] + im[k] * im[k]);
            if (size < d->floor && size > SMALLEST) {
                re[k] *= d->floor / size;
                im[k] *= d->floor / size;
            } else if (size < d->floor) {
                re[k] = d->floor;
                im[k] = 0;
            }
        }
    for (k = 0; k + LANES <= d->bins; k += LANES) {
        vec x = NAMED(load)(re + k), y = NAMED(load)(im + k);
        least = NAMED(smaller)(least, x * x + y * y);
    }
    for (; k < d->bins; k++) {
        float size = re[k] * re[k] + im[k] * im[k];
        smallest = size < smallest ? size : smallest;
    }
#if LANES > 1
    for (k = 0; k < LANES; k++) smallest = least[k] < smallest ? least[k] : smallest;
#else
    smallest = least < smallest ? least : smallest;
#endif
    return sqrtf(smallest);
}

/* Process one hop: take the pending samples, and make those of the hop before ready. */
static void advance(deepnmf *d)
{
    int hop = d->hop, window = d->window, bins = d->bins, c, k, silent = 1;
    double gain, before;
    float smallest;

    for (k = 0; k < d->channels * hop; k++) silent = silent && d->pending[k] == 0;
    for (c = 0; c < d->channels; c++) {
        float *input = d->pending + c * hop, *history = d->history + c * window, *offsets = d->offsets + c * 2 * hop;
        double sum = 0, last;
        for (k = 0; k < hop; k++) sum += input[k];
        last = follow(&d->offset[c], sum / hop, silent);
        memmove(offsets, offsets + hop, (size_t)hop * sizeof(float));
        memmove(history, history + hop, (size_t)(window - hop) * sizeof(float));
        for (k = 0; k < hop; k++) {
            double offset = last + (d->offset[c].last - last) * (k + 1) / hop;
            offsets[hop + k] = (float)offset;
            history[window - hop + k] = (float)(input[k] - offset);
        }
        for (k = 0; k < window; k++) d->frame[k] = history[k] * d->analysis[k];
        NAMED(forward)(&d->fft, d->frame, d->re + c * bins, d->im + c * bins);
    }
    NAMED(features)(d);
    network(d);
    smallest = NAMED(complete_mask)(d);
    before = follow(&d->reciprocal, 1 / (smallest > SMALLEST_GAIN ? (double)smallest : SMALLEST_GAIN), 0);
    for (c = 0; c < d->channels; c++) {
        float *re = d->re + c * bins, *im = d->im + c * bins, *overlap = d->overlap + c * hop, *ready = d->ready + c * hop;
        const float *late = d->frame + window - 2 * hop, *offsets = d->offsets + c * 2 * hop;
        for (k = 0; k < bins; k++) {
            float x = d->mix * d->mask_re[k] + (1 - d->mix), y = d->mix * d->mask_im[k], turned = re[k] * x - im[k] * y;
            im[k] = re[k] * y + im[k] * x;
            re[k] = turned;
        }
        NAMED(backward)(&d->fft, re, im, d->frame);
        for (k = 0; k < hop; k++) {
            double mean = before + (d->reciprocal.last - before) * (k + 1) / hop;
            gain = d->mix / mean + (1 - d->mix);
            ready[k] = (float)(overlap[k] + late[k] * d->synthesis[k] + gain * offsets[k]);
            overlap[k] = late[hop + k] * d->synthesis[hop + k];
        }
    }
    if (!d->begun) {   /* what comes before the first sample */
        memset(d->ready, 0, (size_t)d->channels * (size_t)hop * sizeof(float));
        d->begun = 1;
    }
}

#undef vec
#undef quad
#undef whole
#undef small_transform
#undef advance
#undef network

#endif
