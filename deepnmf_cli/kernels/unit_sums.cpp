// sum_j log(1 - b_j + b_j x_ij) for units, and its gradient: inference/expectations.py's sum in machine code.
// Compiled by unit_sums.py. All tensors are float32 and contiguous; I is a multiple of LANES, J one of 4.
//
// Factors of four units at a time are multiplied up, and the exponents of the products are taken out: no logarithm
// is needed but one of every total.

constexpr int LANES = 16, ROWS = 4, CHUNK = 64;

// Sixteen floats; GCC and Clang turn them into whatever vectors the processor has.
typedef float Floats __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int Ints __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

static inline Floats load(const float* at) { return *(const Floats*)at; }
static inline void store(float* at, Floats value) { *(Floats*)at = value; }

// One to `M` rows of the batch, LANES units: product = mantissa * 2^exponent, the mantissa in [1, 2).
template <int M>
static inline void rows_forward(const float* on, const float* off, const float* x, float* mantissa, float* exponent,
                                int units, int targets) {
    Floats product[M];
    Ints power[M];
    for (int m = 0; m < M; m++) product[m] = load(x) * 0.f + 1.f, power[m] = (Ints)(product[m] * 0.f);
    for (int j = 0; j < units; j += 4) {
        Floats at[4];
        for (int k = 0; k < 4; k++) at[k] = load(x + (long)(j + k) * targets);
        for (int m = 0; m < M; m++) {
            const float *b = on + (long)m * units + j, *rest = off + (long)m * units + j;
            Floats z = product[m];
            for (int k = 0; k < 4; k++) z *= b[k] * at[k] + rest[k];
            const Ints bits = (Ints)z;
            power[m] += (bits >> 23) - 127;
            product[m] = (Floats)((bits & 0x007fffff) | 0x3f800000) + (z - z);  // what is not a number stays so
        }
    }
    for (int m = 0; m < M; m++) {
        store(mantissa + (long)m * targets, product[m]);
        store(exponent + (long)m * targets, __builtin_convertvector(power[m], Floats));
    }
}

// on, off (N, J): b and 1 - b; x (J, I): exp(v), within exp(+-20). mantissa, exponent (N, I).
extern "C" void units_forward(const float* on, const float* off, const float* x, float* mantissa, float* exponent,
                              long count, int units, int targets) {
    for (long first = 0; first < count; first += CHUNK) {
        const long last = first + CHUNK < count ? first + CHUNK : count;
        for (int i = 0; i < targets; i += LANES) {
            long n = first;
            for (; n + ROWS <= last; n += ROWS)
                rows_forward<ROWS>(on + n * units, off + n * units, x + i, mantissa + n * targets + i,
                                   exponent + n * targets + i, units, targets);
            for (; n < last; n++)
                rows_forward<1>(on + n * units, off + n * units, x + i, mantissa + n * targets + i,
                                exponent + n * targets + i, units, targets);
        }
    }
}

// less (J, I): exp(v) - 1; gradient (N, I). With r_nij = gradient_ni/(1 - b + b x):
// to_units (N, J) = sum_i r less, to_x (J, I) += sum_n r b.
extern "C" void units_backward(const float* on, const float* off, const float* x, const float* less,
                               const float* gradient, float* to_units, float* to_x, long count, int units,
                               int targets) {
    for (long first = 0; first < count; first += CHUNK) {
        const int rows = first + CHUNK < count ? CHUNK : count - first;
        const float *b = on + first * units, *rest = off + first * units, *above = gradient + first * targets;
        for (int j = 0; j < units; j += 2) {
            Floats sums[CHUNK][2];
            for (int n = 0; n < rows; n++) sums[n][0] = sums[n][1] = load(x) * 0.f;
            for (int i = 0; i < targets; i += LANES) {
                const long at = (long)j * targets + i;
                const Floats x0 = load(x + at), x1 = load(x + at + targets);
                const Floats less0 = load(less + at), less1 = load(less + at + targets);
                Floats to0 = load(to_x + at), to1 = load(to_x + at + targets);
                for (int n = 0; n < rows; n++) {
                    const long unit = (long)n * units + j;
                    const Floats z0 = b[unit] * x0 + rest[unit], z1 = b[unit + 1] * x1 + rest[unit + 1];
                    const Floats ratio = load(above + (long)n * targets + i) / (z0 * z1);
                    const Floats r0 = ratio * z1, r1 = ratio * z0;
                    to0 += r0 * b[unit], to1 += r1 * b[unit + 1];
                    sums[n][0] += r0 * less0, sums[n][1] += r1 * less1;
                }
                store(to_x + at, to0), store(to_x + at + targets, to1);
            }
            for (int n = 0; n < rows; n++)
                for (int k = 0; k < 2; k++) {
                    float total = 0;
                    for (int l = 0; l < LANES; l++) total += sums[n][k][l];
                    to_units[(first + n) * units + j + k] = total;
                }
        }
    }
}
