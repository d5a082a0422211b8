// Products of matrices with few columns, and exponentials, eight numbers at a time: what the layers here are made of.

#pragma once

constexpr int LANES = 8;

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
