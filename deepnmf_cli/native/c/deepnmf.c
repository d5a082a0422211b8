/* See deepnmf.h. Compile this file with deepnmf_model.h beside it: cc -O3 -c deepnmf.c
 *
 * The steps are those of `deepnmf enhance`: hops without constant offset -> spectra -> features -> network -> mask ->
 * spectra -> hops. docs/theory/grid.md of the project has the equations of the network.
 */
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-trapping-math", "no-math-errno", "fp-contract=fast")
#endif

#include "deepnmf.h"
#include "deepnmf_model.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__GNUC__)
#define RESTRICT __restrict__
#else
#define RESTRICT
#endif

#if defined(__GNUC__) && !defined(__clang__)
#define UNROLL _Pragma("GCC unroll 16")
#else
#define UNROLL
#endif

/* Code for newer processors is chosen when the program starts, where compiler and system can do that. */
#if defined(__GNUC__) && !defined(__clang__) && defined(__x86_64__) && defined(__linux__) && !defined(DEEPNMF_PLAIN)
#define VECTORS __attribute__((target_clones("default", "arch=x86-64-v3")))
#else
#define VECTORS
#endif

enum {
    BANDS = SINGLE_BANDS + WIDE_BANDS,
    HALF = SPINS / 2,
    SENT = NODES * FRAME_RANK,
    ROWS = 4,                                        /* nodes whose sums fit into registers together */
    ROOM = (NODES + ROWS - 1) / ROWS * ROWS,
    LEVEL_FRAMES = 250,  /* how far the level and the offset look back */
    MOST_CHANNELS = 64
};

static const float SILENCE = 1e-15f;           /* level below which a frame holds zeros only */
static const float SMALLEST = 1e-30f;          /* products of magnitudes, and masks, that count as zero */
static const double SMALLEST_GAIN = 1e-6;      /* a mask of zero does not decide alone about the offset */
static const float LARGEST = 1e15f;            /* samples beyond cannot be squared in single precision */
static const double PI = 3.14159265358979323846;

/* Functions ------------------------------------------------------------------------------------------------------ */

/* exp(x) to 2e-7 relative, for x in [-87, 87]: 2^k times a polynomial in |r| <= log(2)/2 (Cephes). */
static inline float exponential(float x)
{
    const float shift = 12582912.0f;  /* 1.5 * 2^23: adding it rounds to an integer, in the lowest bits */
    float t = x * 1.44269504f + shift, k = t - shift, r, p, scale;
    int32_t bits;
    memcpy(&bits, &t, 4);
    r = x - k * 0.693359375f + k * 2.12194440e-4f;
    p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    bits = (int32_t)((uint32_t)bits << 23) + 0x3F800000;
    memcpy(&scale, &bits, 4);
    return p * scale;
}

static inline float bounded(float x, float limit)
{
    x = x < limit ? x : limit;
    return x > -limit ? x : -limit;
}

static inline float sigmoid(float x)
{
    return 1.0f / (1.0f + exponential(-bounded(x, 87.0f)));
}

/* y += W x, where W is stored by columns (inputs). */
static inline void add_product(
    float *RESTRICT y, const float *RESTRICT w, const float *RESTRICT x, int outputs, int inputs)
{
    int i, j;
    for (i = 0; i < inputs; i++)
        for (j = 0; j < outputs; j++) y[j] += x[i] * w[i * outputs + j];
}

/* The same for all nodes, whose x (ROOM, inputs) and y (ROOM, outputs) lie one behind the other; outputs are a multiple of
 * SPINS. The sums of a few nodes stay in registers. */
static inline void add_products(
    float *RESTRICT y, const float *RESTRICT w, const float *RESTRICT x, int outputs, int inputs)
{
    int first, n, i, j, r;
    for (first = 0; first < outputs; first += SPINS)
        for (n = 0; n < ROOM; n += ROWS) {
            float sum[ROWS][SPINS];
            for (r = 0; r < ROWS; r++) memcpy(sum[r], y + (n + r) * outputs + first, sizeof sum[r]);
            for (i = 0; i < inputs; i++)
UNROLL
                for (r = 0; r < ROWS; r++) {
                    float value = x[(n + r) * inputs + i];
UNROLL
                    for (j = 0; j < SPINS; j++) sum[r][j] += value * w[i * outputs + first + j];
                }
            for (r = 0; r < ROWS; r++) memcpy(y + (n + r) * outputs + first, sum[r], sizeof sum[r]);
        }
}

/* Spins h relax towards the targets t = tanh(x) as far as the schedules g = sigmoid(y) say, (14)-(15). xy holds x and then y
 * of `spins`, which make place for g t and g: with t = (e^2x - 1) / (e^2x + 1) and g = 1 / (1 + e^-y) one division does for
 * both. Beyond the bounds both are what they are at these, to single precision. */
static inline void answer(float *RESTRICT xy, int spins)
{
    int j;
    for (j = 0; j < spins; j++) {
        float odds = exponential(2.0f * bounded(xy[j], 10.0f)), against = 1.0f + exponential(-bounded(xy[spins + j], 40.0f));
        float share = 1.0f / ((odds + 1.0f) * against);
        xy[j] = (odds - 1.0f) * share;
        xy[spins + j] = (odds + 1.0f) * share;
    }
}

static inline void relax(float *RESTRICT h, const float *RESTRICT step, const float *RESTRICT schedule, int spins)
{
    int j;
    for (j = 0; j < spins; j++) h[j] += step[j] - schedule[j] * h[j];
}

/* Fourier transforms --------------------------------------------------------------------------------------------- */

/* Complex transforms of any length: Stockham's algorithm for lengths of small factors, and Bluestein's, a convolution
 * with a chirp by transforms of a power of two, for all others. Real parts and imaginary parts lie apart. */

enum { MOST_FACTORS = 32, LARGEST_RADIX = 13 };

typedef struct {
    int n, factors, radix[MOST_FACTORS];
    float *cosine, *sine;      /* exp(-2 pi i k / n) */
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

/* Memory for everything is taken from one block: a first pass with no block counts how much that is. */
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
    f->n = n;
    f->factors = factorise(n, f->radix);
    f->cosine = floats(a, (size_t)n);
    f->sine = floats(a, (size_t)n);
    f->work_re = floats(a, (size_t)n);
    f->work_im = floats(a, (size_t)n);
    if (a->begin) turn_table(f->cosine, f->sine, n);
}

/* One pass: m groups of butterflies with `stride` columns each. */
static inline void pass4(
    const small_fft *f, int m, int stride, const float *RESTRICT xr, const float *RESTRICT xi, float *RESTRICT yr,
    float *RESTRICT yi)
{
    int p, q, step = m * stride;
    for (p = 0; p < m; p++) {
        const float c1 = f->cosine[p * stride], s1 = f->sine[p * stride];
        const float c2 = f->cosine[2 * p * stride], s2 = f->sine[2 * p * stride];
        const float c3 = f->cosine[3 * p * stride], s3 = f->sine[3 * p * stride];
        const float *ar = xr + p * stride, *ai = xi + p * stride;
        float *br = yr + 4 * p * stride, *bi = yi + 4 * p * stride;
        for (q = 0; q < stride; q++) {
            float r02 = ar[q] + ar[q + 2 * step], i02 = ai[q] + ai[q + 2 * step];
            float d02 = ar[q] - ar[q + 2 * step], e02 = ai[q] - ai[q + 2 * step];
            float r13 = ar[q + step] + ar[q + 3 * step], i13 = ai[q + step] + ai[q + 3 * step];
            float d13 = ar[q + step] - ar[q + 3 * step], e13 = ai[q + step] - ai[q + 3 * step];
            float u1 = d02 + e13, v1 = e02 - d13, u2 = r02 - r13, v2 = i02 - i13, u3 = d02 - e13, v3 = e02 + d13;
            br[q] = r02 + r13;
            bi[q] = i02 + i13;
            br[q + stride] = u1 * c1 - v1 * s1;
            bi[q + stride] = u1 * s1 + v1 * c1;
            br[q + 2 * stride] = u2 * c2 - v2 * s2;
            bi[q + 2 * stride] = u2 * s2 + v2 * c2;
            br[q + 3 * stride] = u3 * c3 - v3 * s3;
            bi[q + 3 * stride] = u3 * s3 + v3 * c3;
        }
    }
}

static inline void pass_any(
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

/* The transform of re + i im (n) in place; exchange re and im for the inverse one, times n. */
VECTORS static void small_transform(const small_fft *f, float *re, float *im)
{
    int number, stride = 1, left = f->n;
    float *xr = re, *xi = im, *yr = f->work_re, *yi = f->work_im;
    for (number = 0; number < f->factors; number++) {
        int r = f->radix[number], m = left / r;
        float *swap;
        if (r == 4)
            pass4(f, m, stride, xr, xi, yr, yi);
        else
            pass_any(f, r, m, stride, xr, xi, yr, yi);
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
    small_transform(&f->fft, f->kernel_re, f->kernel_im);
}

VECTORS static void complex_transform(const complex_fft *f, float *re, float *im)
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

/* Spectrum re + i im (n / 2 + 1) of x (n). */
VECTORS static void forward(const real_fft *f, const float *RESTRICT x, float *RESTRICT re, float *RESTRICT im)
{
    int k, m = f->half.n;
    if (f->n % 2) {
        memcpy(f->re, x, (size_t)f->n * sizeof(float));
        memset(f->im, 0, (size_t)f->n * sizeof(float));
        complex_transform(&f->half, f->re, f->im);
        memcpy(re, f->re, (size_t)(f->n / 2 + 1) * sizeof(float));
        memcpy(im, f->im, (size_t)(f->n / 2 + 1) * sizeof(float));
        return;
    }
    for (k = 0; k < m; k++) {
        f->re[k] = x[2 * k];
        f->im[k] = x[2 * k + 1];
    }
    complex_transform(&f->half, f->re, f->im);
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

/* x (n) of its spectrum (n / 2 + 1), whose imaginary parts at 0 and at the Nyquist frequency are left aside. */
VECTORS static void backward(const real_fft *f, const float *RESTRICT re, const float *RESTRICT im, float *RESTRICT x)
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
        complex_transform(&f->half, f->im, f->re);
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
    complex_transform(&f->half, f->im, f->re);
    for (k = 0; k < m; k++) {
        x[2 * k] = scale * f->re[k];
        x[2 * k + 1] = scale * f->im[k];
    }
}

/* Network -------------------------------------------------------------------------------------------------------- */

typedef struct {
    float power, weight;                        /* of the running level */
    float past[CONTEXT][BANDS];                 /* compressed bands, the oldest frame first */
    float nodes[LAYERS][NODES][SPINS];          /* spins of the frame before */
    float frame[LAYERS][FRAME_SPINS + 1];
} memory;

static float running_level(memory *s, const float *magnitude)
{
    double sum = 0;
    float power, weight;
    int k;
    for (k = 0; k < BINS; k++) sum += (double)magnitude[k] * magnitude[k];
    power = (float)(sum / BINS);
    if (power > SILENCE * SILENCE) {
        s->power += (power - s->power) / LEVEL_FRAMES;
        s->weight += (1 - s->weight) / LEVEL_FRAMES;
    }
    weight = s->weight > 1.0f / LEVEL_FRAMES ? s->weight : 1.0f / LEVEL_FRAMES;
    power = sqrtf(s->power / weight);
    return power > SILENCE ? power : SILENCE;
}

/* What nodes see of P values in each of `bands` bands: windows of bands per node and their neighbours, zero outside. */
static void see(const float *values, int bands, int node, float *RESTRICT seen)
{
    int k, band = node * BANDS_PER_NODE - NEIGHBOURS;
    for (k = 0; k < WINDOW_BANDS; k++, band++) seen[k] = band >= 0 && band < bands ? values[band] : 0;
}

VECTORS static void layer(memory *s, int k, float (*RESTRICT field)[SPINS])
{
    float xy[ROOM][2 * SPINS], spins[ROOM][SPINS];
    int n, j;
    memset(xy, 0, sizeof xy);
    memcpy(xy, time_bias[k], sizeof time_bias[k]);
    add_products(xy[0], time_weight[k], field[0], 2 * SPINS, SPINS);
    for (n = 0; n < NODES; n++) {
        answer(xy[n], SPINS);
        relax(s->nodes[k][n], xy[n], xy[n] + SPINS, SPINS);
        for (j = 0; j < SPINS; j++) field[n][j] += s->nodes[k][n][j];
    }
    /* Along frequency the first half of the spins goes up, the other down. */
    memcpy(xy, frequency_bias[k], sizeof frequency_bias[k]);
    add_products(xy[0], frequency_weight[k], field[0], 2 * SPINS, SPINS);
    for (n = 0; n < NODES; n++) answer(xy[n], SPINS);
    memset(spins, 0, sizeof spins);
    for (n = 0; n < NODES; n++) {
        if (n) memcpy(spins[n], spins[n - 1], HALF * sizeof(float));
        relax(spins[n], xy[n], xy[n] + SPINS, HALF);
    }
    for (n = NODES - 1; n >= 0; n--) {
        if (n < NODES - 1) memcpy(spins[n] + HALF, spins[n + 1] + HALF, HALF * sizeof(float));
        relax(spins[n] + HALF, xy[n] + HALF, xy[n] + SPINS + HALF, HALF);
    }
    add_products(field[0], frequency_join[k], spins[0], SPINS, SPINS);
#if FRAME_SPINS
    {
        float sent[SENT], told[SENT], all[2 * FRAME_SPINS];
        memset(sent, 0, sizeof sent);
        memset(told, 0, sizeof told);
        memcpy(all, frame_bias[k], sizeof all);
        for (n = 0; n < NODES; n++) add_product(sent + n * FRAME_RANK, frame_send[k], field[n], FRAME_RANK, SPINS);
        add_product(all, frame_weight[k], sent, 2 * FRAME_SPINS, SENT);
        answer(all, FRAME_SPINS);
        relax(s->frame[k], all, all + FRAME_SPINS, FRAME_SPINS);
        add_product(told, frame_spread[k], s->frame[k], SENT, FRAME_SPINS);
        for (n = 0; n < NODES; n++) add_product(field[n], frame_receive[k], told + n * FRAME_RANK, SPINS, FRAME_RANK);
    }
#endif
}

/* The speech mask re + i im (BINS) of features: magnitudes, and with phase two products; all are changed. */
VECTORS static void network(memory *s, float *magnitude, float (*products)[BINS], float *re, float *im)
{
    float field[ROOM][SPINS], seen[ROOM][CONTEXT * WINDOW_BANDS], wide[WIDE_BANDS + 1], speech[BANDS + 1];
    float level = running_level(s, magnitude), scale = 1 / level;
    float *bands = s->past[CONTEXT - 1];
    int n, k, p;

    for (k = 0; k + 1 < CONTEXT; k++) memcpy(s->past[k], s->past[k + 1], sizeof s->past[k]);
    memset(wide, 0, sizeof wide);
    for (k = 0; k < BINS - SINGLE_BANDS; k++) {
        float value = magnitude[SINGLE_BANDS + k];
        wide[wide_band[k]] += pool_weight[k][0] * value;
        wide[wide_band[k] + 1] += pool_weight[k][1] * value;
    }
    for (k = 0; k < SINGLE_BANDS; k++) bands[k] = powf(scale * magnitude[k], COMPRESSION);
    for (k = 0; k < WIDE_BANDS; k++) bands[SINGLE_BANDS + k] = powf(scale * wide[k], COMPRESSION);
    memset(seen, 0, sizeof seen);
    for (n = 0; n < NODES; n++)
        for (p = 0; p < CONTEXT; p++) see(s->past[p], BANDS, n, seen[n] + p * WINDOW_BANDS);
    memset(field, 0, sizeof field);
    memcpy(field, observe_bias[0], sizeof observe_bias[0]);
    add_products(field[0], observe_weight[0], seen[0], SPINS, CONTEXT * WINDOW_BANDS);
#if PHASE
    {
        float turned[4][SINGLE_BANDS], seen_phase[4 * WINDOW_BANDS];
        float square = scale * scale;
        for (p = 0; p < 4; p += 2)
            for (k = 0; k < SINGLE_BANDS; k++) {
                float x = square * products[p][k], y = square * products[p + 1][k], power = x * x + y * y;
                float gain = powf(power > QUIET ? power : QUIET, (COMPRESSION - 1) / 2);
                turned[p][k] = x * gain;
                turned[p + 1][k] = y * gain;
            }
        for (n = 0; n < PHASE_NODES; n++) {
            for (p = 0; p < 4; p++) see(turned[p], SINGLE_BANDS, n, seen_phase + p * WINDOW_BANDS);
            add_product(field[n], phase_weight[0], seen_phase, SPINS, 4 * WINDOW_BANDS);
        }
    }
#else
    (void)products;
#endif
    for (k = 0; k < LAYERS; k++) layer(s, k, field);
    for (n = 0; n < NODES; n++) {
        memcpy(speech + n * BANDS_PER_NODE, read_bias[0], sizeof read_bias[0]);
        add_product(speech + n * BANDS_PER_NODE, read_weight[0], field[n], BANDS_PER_NODE, SPINS);
    }
    for (k = 0; k < BANDS; k++) speech[k] = sigmoid(speech[k]);
    speech[BANDS] = 0;
    for (k = 0; k < SINGLE_BANDS; k++) re[k] = speech[k];
    for (k = SINGLE_BANDS; k < BINS; k++) {
        const float *own = speech + SINGLE_BANDS + wide_band[k - SINGLE_BANDS];
        re[k] = spread_weight[k - SINGLE_BANDS][0] * own[0] + spread_weight[k - SINGLE_BANDS][1] * own[1];
    }
    memset(im, 0, BINS * sizeof(float));
#if PHASE
    for (n = 0; n < PHASE_NODES; n++) {
        float turn[2 * BANDS_PER_NODE] = {0};
        add_product(turn, turn_weight[0], field[n], 2 * BANDS_PER_NODE, SPINS);
        for (p = 0; p < BANDS_PER_NODE; p++) {
            re[n * BANDS_PER_NODE + p] += turn[2 * p];
            im[n * BANDS_PER_NODE + p] = turn[2 * p + 1];
        }
    }
    for (k = 0; k < BINS; k++) {
        float size = re[k] * re[k] + im[k] * im[k], shrink = 1 / sqrtf(size > 1 ? size : 1);
        re[k] *= shrink;
        im[k] *= shrink;
    }
#endif
}

/* From waveform to waveform -------------------------------------------------------------------------------------- */

/* A forgetting mean of one value per hop, in straight lines from hop to hop. */
typedef struct {
    double sum, weight, last;
    int begun;
} running_mean;

/* Returns the mean of before; the present one is m->last. */
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

struct deepnmf {
    int channels, hop, window, bins, filled, begun;
    float floor, mix;
    real_fft fft;
    float *analysis, *synthesis;
    float *pending, *ready;                     /* (C, hop) of the input and of the output */
    float *history, *overlap, *offsets;         /* (C, window), (C, hop), (C, 2 hop) */
    float *frame, *re, *im, *before_re, *before_im;   /* (window), and spectra (C, bins) */
    float *magnitude, *mask_re, *mask_im, *size, *product;
    float (*products)[BINS];
    running_mean *offset, reciprocal;
    memory network;
};

static void plan(deepnmf *d, arena *a)
{
    size_t channels = (size_t)d->channels, hop = (size_t)d->hop, window = (size_t)d->window, bins = (size_t)d->bins;
    size_t seen = bins > BINS ? bins : BINS;
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
    d->before_re = floats(a, channels * bins);
    d->before_im = floats(a, channels * bins);
    d->magnitude = floats(a, seen);
    d->mask_re = floats(a, seen);
    d->mask_im = floats(a, seen);
    d->size = floats(a, bins);
    d->product = floats(a, 5 * seen);
    d->products = (float (*)[BINS])take(a, 4 * BINS, sizeof(float));
    d->offset = (running_mean *)take(a, channels, sizeof(running_mean));
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

deepnmf *deepnmf_create(int rate_hz, int channels, float max_attenuation_db, float mix)
{
    arena a = {NULL, 0};
    deepnmf shape, *d;
    if (rate_hz < 1000 || rate_hz > 768000 || channels < 1 || channels > MOST_CHANNELS) return NULL;
    if (!(max_attenuation_db >= 0) || !(mix >= 0 && mix <= 1)) return NULL;
    memset(&shape, 0, sizeof shape);
    shape.channels = channels;
    shape.hop = (int)rint(rate_hz * HOP_S);
    shape.window = WINDOW_HOPS * shape.hop;
    shape.bins = shape.window / 2 + 1;
    shape.floor = isinf(max_attenuation_db) ? 0 : powf(10, -max_attenuation_db / 20);
    shape.mix = mix;
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

/* Mean over channels of magnitudes, and of products X conj(Y), scaled for channels that differ by gains; the turns of a
 * hop are undone. Only the bins that the network takes. */
VECTORS static void features(deepnmf *d)
{
    int bins = d->bins < BINS ? d->bins : BINS, channels = d->channels, c, k;
    memset(d->magnitude, 0, BINS * sizeof(float));
    for (c = 0; c < channels; c++) {
        const float *re = d->re + c * d->bins, *im = d->im + c * d->bins;
        for (k = 0; k < bins; k++) d->magnitude[k] += sqrtf(re[k] * re[k] + im[k] * im[k]) / (float)channels;
    }
#if PHASE
    int kind;
    for (kind = 0; kind < 2; kind++) {
        float *x = d->products[2 * kind], *y = d->products[2 * kind + 1];
        float *one = d->product, *other = one + bins, *both = other + bins;
        memset(x, 0, BINS * sizeof(float));
        memset(y, 0, BINS * sizeof(float));
        memset(one, 0, 3 * (size_t)bins * sizeof(float));
        for (c = 0; c < channels; c++) {
            const float *re = d->re + c * d->bins, *im = d->im + c * d->bins;
            const float *ur = kind ? re + 1 : d->before_re + c * d->bins, *ui = kind ? im + 1 : d->before_im + c * d->bins;
            int last = kind && bins == d->bins ? bins - 1 : bins;   /* nothing is above the last bin */
            for (k = 0; k < last; k++) {
                x[k] += (re[k] * ur[k] + im[k] * ui[k]) / (float)channels;
                y[k] += (im[k] * ur[k] - re[k] * ui[k]) / (float)channels;
            }
            if (channels > 1)
                for (k = 0; k < last; k++) {
                    float size = sqrtf(re[k] * re[k] + im[k] * im[k]), its = sqrtf(ur[k] * ur[k] + ui[k] * ui[k]);
                    one[k] += size / (float)channels;
                    other[k] += its / (float)channels;
                    both[k] += size * its / (float)channels;
                }
        }
        if (channels > 1)
            for (k = 0; k < bins; k++) {
                float scale = one[k] * other[k] / (both[k] > SMALLEST ? both[k] : SMALLEST);
                x[k] *= scale;
                y[k] *= scale;
            }
        if (!kind)
            for (k = 0; k < bins; k++) {
                const float c0 = hop_turn[k % WINDOW_HOPS][0], s0 = hop_turn[k % WINDOW_HOPS][1];
                float turned = x[k] * c0 - y[k] * s0;
                y[k] = x[k] * s0 + y[k] * c0;
                x[k] = turned;
            }
    }
    memcpy(d->before_re, d->re, (size_t)channels * (size_t)d->bins * sizeof(float));
    memcpy(d->before_im, d->im, (size_t)channels * (size_t)d->bins * sizeof(float));
#endif
}

/* The mask of all bins of this rate: above the reach of the network, that of its highest band. Returns the smallest. */
static float complete_mask(deepnmf *d)
{
    float re = 0, im = 0, smallest = INFINITY;
    int k;
    for (k = BINS - TOP_BINS; k < BINS; k++) {
        re += d->mask_re[k] / TOP_BINS;
        im += d->mask_im[k] / TOP_BINS;
    }
    for (k = BINS; k < d->bins; k++) {
        d->mask_re[k] = re;
        d->mask_im[k] = im;
    }
    for (k = 0; k < d->bins; k++) {
        float size = sqrtf(d->mask_re[k] * d->mask_re[k] + d->mask_im[k] * d->mask_im[k]);
        if (size < d->floor && size > SMALLEST) {
            d->mask_re[k] *= d->floor / size;
            d->mask_im[k] *= d->floor / size;
            size = d->floor;
        } else if (size < d->floor) {
            d->mask_re[k] = size = d->floor;
            d->mask_im[k] = 0;
        }
        smallest = size < smallest ? size : smallest;
    }
    return smallest;
}

/* One hop: what is pending goes in, and the hop before it becomes ready. */
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
        forward(&d->fft, d->frame, d->re + c * bins, d->im + c * bins);
    }
    features(d);
    network(&d->network, d->magnitude, d->products, d->mask_re, d->mask_im);
    smallest = complete_mask(d);
    before = follow(&d->reciprocal, 1 / (smallest > SMALLEST_GAIN ? (double)smallest : SMALLEST_GAIN), 0);
    for (c = 0; c < d->channels; c++) {
        float *re = d->re + c * bins, *im = d->im + c * bins, *overlap = d->overlap + c * hop, *ready = d->ready + c * hop;
        const float *late = d->frame + window - 2 * hop, *offsets = d->offsets + c * 2 * hop;
        for (k = 0; k < bins; k++) {
            float x = d->mix * d->mask_re[k] + (1 - d->mix), y = d->mix * d->mask_im[k], turned = re[k] * x - im[k] * y;
            im[k] = re[k] * y + im[k] * x;
            re[k] = turned;
        }
        backward(&d->fft, re, im, d->frame);
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

void deepnmf_process(
    deepnmf *d, const float *input, float *output, size_t frames, size_t frame_stride, size_t channel_stride)
{
    size_t t;
    int c, hop = d->hop;
    for (t = 0; t < frames; t++) {
        for (c = 0; c < d->channels; c++) {
            size_t at = t * frame_stride + (size_t)c * channel_stride;
            float x = input[at];
            output[at] = d->ready[c * hop + d->filled];
            d->pending[c * hop + d->filled] = x >= -LARGEST && x <= LARGEST ? x : 0;
        }
        if (++d->filled == hop) {
            advance(d);
            d->filled = 0;
        }
    }
}
