// One layer of the grid and its gradient, for one example: grid.py's `step` in machine code.
// Compiled by grid_kernel.py with -DCHANNELS=C, a multiple of 8. All tensors are float32.
//
// A frame of one example, (nodes, C), passes through the whole layer while it is in the processor's first cache; in
// between only the field and the spins in time go to memory. The gradient computes the rest again.

constexpr int C = CHANNELS, HALF = C / 2, LANES = 8;

// Eight floats; GCC and Clang turn them into whatever vectors the processor has.
typedef float Floats __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int Ints __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

static inline Floats load(const float* at) { return *(const Floats*)at; }
static inline void store(float* at, Floats value) { *(Floats*)at = value; }

// Beyond +-40 both functions below have long become constant in float32; the product of two e^40 is still a number.
constexpr float FARTHEST = 40.f;

// e^x with a relative error below 1e-7 for |x| <= FARTHEST, the border's value beyond: 2^n times a polynomial.
static inline Floats exponential(Floats x) {
    x = x > FARTHEST ? Floats{} + FARTHEST : x;  // nan compares as false and stays
    x = x < -FARTHEST ? Floats{} - FARTHEST : x;
    const float round = 12582912.f;  // 1.5 * 2^23: adding it leaves no digits after the point
    Floats n = (x * 1.44269504088896341f + round) - round;
    Floats r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    Floats p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.f;
    Ints power = (__builtin_convertvector(n, Ints) + 127) << 23;
    return p * (Floats)power;
}

// tanh of `target` and sigmoid of `schedule`, in place and with one division for both.
static inline void respond(float* target, float* schedule) {
    const Floats a = 1.f + exponential(-2.f * load(target)), b = 1.f + exponential(-load(schedule));
    const Floats both = 1.f / (a * b);
    store(target, 2.f * b * both - 1.f);
    store(schedule, a * both);
}

// out (M, N) = begin + in (M, K) weight (K, N), `begin` with rows `stride` apart: zero for a bias.
template <int K, int N, int M, int V>
static inline void tile(const float* in, const float* weight, const float* begin, int stride, float* out) {
    Floats sum[M][V];
    for (int m = 0; m < M; m++)
        for (int v = 0; v < V; v++) sum[m][v] = load(begin + m * stride + v * LANES);
    for (int k = 0; k < K; k++) {
        Floats row[V];
        for (int v = 0; v < V; v++) row[v] = load(weight + k * N + v * LANES);
        for (int m = 0; m < M; m++)
            for (int v = 0; v < V; v++) sum[m][v] += in[m * K + k] * row[v];
    }
    for (int m = 0; m < M; m++)
        for (int v = 0; v < V; v++) store(out + m * N + v * LANES, sum[m][v]);
}

// Vectors of a tile's row, so that tiles fill the registers and divide N.
constexpr int width(int n) { return n % 24 == 0 ? 3 : n % 32 == 0 ? 4 : n % 16 == 0 ? 2 : 1; }
constexpr int height(int v) { return v == 4 ? 6 : 8; }

// out (rows, N) = begin + in (rows, K) weight (K, N); `begin` is a bias (N) or, with `each`, as large as `out`.
template <int K, int N>
static void product(const float* in, int rows, const float* weight, const float* begin, bool each, float* out) {
    constexpr int V = width(N), M = height(V);
    const int stride = each ? N : 0;
    int r = 0;
    for (; r + M <= rows; r += M)
        for (int n = 0; n < N; n += V * LANES)
            tile<K, N, M, V>(in + r * K, weight + n, begin + r * stride + n, stride, out + r * N + n);
    for (; r < rows; r++)
        for (int n = 0; n < N; n += V * LANES)
            tile<K, N, 1, V>(in + r * K, weight + n, begin + r * stride + n, stride, out + r * N + n);
}

// total (A, B) += left (rows, A)^T right (rows, B)
template <int A, int B>
static void accumulate(const float* left, const float* right, int rows, float* total) {
    constexpr int V = width(B), M = 8;
    for (int a = 0; a < A; a += M)
        for (int b = 0; b < B; b += V * LANES) {
            Floats sum[M][V];
            for (int m = 0; m < M; m++)
                for (int v = 0; v < V; v++) sum[m][v] = load(total + (a + m) * B + b + v * LANES);
            for (int r = 0; r < rows; r++) {
                Floats row[V];
                for (int v = 0; v < V; v++) row[v] = load(right + r * B + b + v * LANES);
                for (int m = 0; m < M; m++)
                    for (int v = 0; v < V; v++) sum[m][v] += left[r * A + a + m] * row[v];
            }
            for (int m = 0; m < M; m++)
                for (int v = 0; v < V; v++) store(total + (a + m) * B + b + v * LANES, sum[m][v]);
        }
}

// total (size) += in (size), a multiple of LANES
static void accumulate(const float* in, int size, float* total) {
    for (int i = 0; i < size; i += LANES) store(total + i, load(total + i) + load(in + i));
}

// messages (nodes, 2C) = targets tanh(.), then schedules sigmoid(.), of field (nodes, C) weight (C, 2C) + bias
// (nodes, 2C)
static void messages(const float* field, int nodes, const float* weight, const float* bias, float* out) {
    product<C, 2 * C>(field, nodes, weight, bias, true, out);
    for (int n = 0; n < nodes; n++, out += 2 * C)
        for (int c = 0; c < C; c += LANES) respond(out + c, out + C + c);
}

// spins (nodes, C) along frequency: the first half of the channels upwards, the second half downwards
static void along_frequency(const float* sent, int nodes, float* spins) {
    float up[HALF] = {}, down[HALF] = {};
    for (int n = 0; n < nodes; n++) {
        const float *here = sent + n * 2 * C, *there = sent + (nodes - 1 - n) * 2 * C + HALF;
        float *above = spins + n * C, *below = spins + (nodes - 1 - n) * C + HALF;
        for (int c = 0; c < HALF; c++) above[c] = up[c] += here[C + c] * (here[c] - up[c]);
        for (int c = 0; c < HALF; c++) below[c] = down[c] += there[C + c] * (there[c] - down[c]);
    }
}

// Gradients (before tanh and sigmoid) of `count` channels of one node: `total` reaches its spins, which were `before`
// one node earlier along the chain. Returns what reaches the earlier node's spins in `total`.
template <int COUNT>
static inline void sent_gradient(const float* sent, const float* before, float* total, float* out) {
    for (int c = 0; c < COUNT; c++) {
        const float target = sent[c], schedule = sent[C + c], arrived = total[c];
        out[c] = arrived * schedule * (1.f - target * target);
        out[C + c] = arrived * (target - before[c]) * schedule * (1.f - schedule);
        total[c] = arrived * (1.f - schedule);
    }
}

extern "C" {

// field, path, out: (frames, nodes, C) with frames `apart` floats from each other; start and ended (nodes, C).
// Weights are transposed: (C, 2C), (C, 2C), (C, C); biases (nodes, 2C). `room` holds nodes * 4C floats.
void grid_forward(const float* field, const float* start, const float* time_weight, const float* time_bias,
                  const float* frequency_weight, const float* frequency_bias, const float* join, float* path,
                  float* out, float* room, int frames, int nodes, long apart) {
    const int size = nodes * C;
    float *sent = room, *middle = room + 2 * size, *spins = middle + size;
    const float* before = start;
    for (int t = 0; t < frames; t++, field += apart, path += apart, out += apart) {
        messages(field, nodes, time_weight, time_bias, sent);
        for (int n = 0; n < nodes; n++)
            for (int i = n * C, c = 0; c < C; c += LANES, i += LANES) {
                const float* from = sent + n * 2 * C + c;
                const Floats old = load(before + i), now = old + load(from + C) * (load(from) - old);
                store(path + i, now);
                store(middle + i, load(field + i) + now);
            }
        messages(middle, nodes, frequency_weight, frequency_bias, sent);
        along_frequency(sent, nodes, spins);
        product<C, C>(spins, nodes, join, middle, true, out);
        before = path;
    }
}

// From the gradient of `out` that of everything else. `carried` (nodes, C) holds the gradient of the last spins in time
// and is replaced by that of `start`. Weights come transposed, as in `grid_forward`, and as they are. The gradients of
// weights, laid out as (2C, C), (nodes, 2C), (2C, C), (nodes, 2C), (C, C), are added to `totals`. `room` holds nodes * 9C
// floats.
void grid_backward(const float* field, const float* start, const float* time_weight, const float* time_bias,
                   const float* frequency_weight, const float* frequency_bias, const float* time_rows,
                   const float* frequency_rows, const float* join_rows, const float* path, const float* gradient,
                   float* carried, float* out, float* totals, float* room, int frames, int nodes, long apart) {
    const int size = nodes * C;
    float *sent = room, *sent_total = room + 2 * size, *middle = room + 4 * size, *spins = room + 5 * size;
    float *spin_total = room + 6 * size, *middle_total = room + 7 * size, *zero = room + 8 * size;
    float *time_total = totals, *time_bias_total = time_total + 2 * C * C;
    float *frequency_total = time_bias_total + 2 * size, *frequency_bias_total = frequency_total + 2 * C * C;
    float* join_total = frequency_bias_total + 2 * size;
    for (int i = 0; i < size; i++) zero[i] = 0.f;
    for (long t = frames - 1; t >= 0; t--) {
        const float *seen = field + t * apart, *now = path + t * apart, *arrived = gradient + t * apart;
        const float* before = t ? now - apart : start;

        for (int i = 0; i < size; i += LANES) store(middle + i, load(seen + i) + load(now + i));
        messages(middle, nodes, frequency_weight, frequency_bias, sent);
        along_frequency(sent, nodes, spins);
        accumulate<C, C>(arrived, spins, nodes, join_total);
        product<C, C>(arrived, nodes, join_rows, zero, false, spin_total);
        float up[HALF] = {}, down[HALF] = {};
        for (int n = 0; n < nodes; n++) {
            const int high = nodes - 1 - n;  // the upward chain is walked from its end, the downward one likewise
            for (int c = 0; c < HALF; c++) up[c] += spin_total[high * C + c];
            sent_gradient<HALF>(sent + high * 2 * C, high ? spins + (high - 1) * C : zero, up,
                                sent_total + high * 2 * C);
            for (int c = 0; c < HALF; c++) down[c] += spin_total[n * C + HALF + c];
            sent_gradient<HALF>(sent + n * 2 * C + HALF, n + 1 < nodes ? spins + (n + 1) * C + HALF : zero, down,
                                sent_total + n * 2 * C + HALF);
        }
        accumulate<2 * C, C>(sent_total, middle, nodes, frequency_total);
        accumulate(sent_total, 2 * size, frequency_bias_total);
        product<2 * C, C>(sent_total, nodes, frequency_rows, arrived, true, middle_total);

        messages(seen, nodes, time_weight, time_bias, sent);
        for (int i = 0; i < size; i += LANES) store(carried + i, load(carried + i) + load(middle_total + i));
        for (int n = 0; n < nodes; n++)
            sent_gradient<C>(sent + n * 2 * C, before + n * C, carried + n * C, sent_total + n * 2 * C);
        accumulate<2 * C, C>(sent_total, seen, nodes, time_total);
        accumulate(sent_total, 2 * size, time_bias_total);
        product<2 * C, C>(sent_total, nodes, time_rows, middle_total, true, out + t * apart);
    }
}
}
