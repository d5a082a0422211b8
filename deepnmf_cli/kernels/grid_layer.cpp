// One layer of the grid and its gradient, for one example: grid.py's `step` in machine code.
// Compiled by grid_layer.py with -DCHANNELS=C, a multiple of 8. All tensors are float32.
//
// A frame of one example, (nodes, C), passes through the whole layer while it is in the processor's first cache; in
// between only the field and the spins in time go to memory. The gradient computes the rest again.

#include "vectors.h"

constexpr int C = CHANNELS, HALF = C / 2;

// tanh of `target` and sigmoid of `schedule`, in place and with one division for both.
static inline void respond(float* target, float* schedule) {
    const Floats a = 1.f + exponential(-2.f * load(target)), b = 1.f + exponential(-load(schedule));
    const Floats both = 1.f / (a * b);
    store(target, 2.f * b * both - 1.f);
    store(schedule, a * both);
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
