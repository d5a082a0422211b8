// Mean field on the grid, frame by frame, and its gradient, for one example: grid_field.py's `update` in machine code.
// Compiled with -DCHANNELS=C, a multiple of 8. All tensors are float32; nodes with even numbers come first.

#include "vectors.h"

constexpr int C = CHANNELS;

struct Field {
    int nodes, even, iterations;
    bool accumulating;
    // Of all iterations: time^T (C, C), frequency^T (2C, C), schedule (C).
    const float *time, *frequency, *schedule;
};

static inline void copy(const float* from, int size, float* to) {
    for (int i = 0; i < size; i++) to[i] = from[i];
}

// out (rows, 2C) = what the neighbours of one colour, `spins` (nodes, C), have: those below, then those above.
static void gather(const Field& field, const float* spins, bool odd, float* out) {
    const int rows = odd ? field.nodes - field.even : field.even, others = field.nodes - rows;
    const float* other = odd ? spins : spins + field.even * C;
    for (int i = 0; i < rows; i++, out += 2 * C) {
        const int below = odd ? i : i - 1, above = odd ? i + 1 : i;
        for (int c = 0; c < C; c++) out[c] = below >= 0 ? other[below * C + c] : 0.f;
        for (int c = 0; c < C; c++) out[C + c] = above < others ? other[above * C + c] : 0.f;
    }
}

// The transpose of `gather`: adds `in` (rows, 2C) to the neighbours in `spins`.
static void scatter(const Field& field, const float* in, bool odd, float* spins) {
    const int rows = odd ? field.nodes - field.even : field.even, others = field.nodes - rows;
    float* other = odd ? spins : spins + field.even * C;
    for (int i = 0; i < rows; i++, in += 2 * C) {
        const int below = odd ? i : i - 1, above = odd ? i + 1 : i;
        for (int c = 0; c < C && below >= 0; c++) other[below * C + c] += in[c];
        for (int c = 0; c < C && above < others; c++) other[above * C + c] += in[C + c];
    }
}

// One frame. spins (K + 1, nodes, C): expectations, from 0, after every iteration; target (K, nodes, C): tanh(u); told
// (K, nodes, 2C): what was gathered; theta (nodes, C) changes where messages accumulate. `u` (nodes, C) is room.
static void infer(const Field& field, const float* before, float* theta, float* spins, float* target, float* told,
                  float* u) {
    const int size = field.nodes * C;
    for (int i = 0; i < size; i++) spins[i] = 0.f;
    for (int k = 0; k < field.iterations; k++, spins += size, target += size, told += 2 * size) {
        const float* schedule = field.schedule + k * C;
        float* now = spins + size;
        copy(spins, size, now);
        product<C, C>(before, field.nodes, field.time + k * C * C, theta, true, u);
        for (int odd = 0; odd < 2; odd++) {
            const int first = odd ? field.even : 0, rows = odd ? field.nodes - field.even : field.even;
            float *seen = told + first * 2 * C, *here = u + first * C;
            gather(field, now, odd, seen);
            product<2 * C, C>(seen, rows, field.frequency + k * 2 * C * C, here, true, here);
            for (int i = first * C, n = 0; n < rows; n++)
                for (int c = 0; c < C; c += LANES, i += LANES) {
                    const Floats aim = 2.f / (1.f + exponential(-2.f * load(u + i))) - 1.f, old = load(now + i);
                    store(target + i, aim);
                    store(now + i, old + load(schedule + c) * (aim - old));
                }
        }
        if (field.accumulating) copy(u, size, theta);
    }
}

extern "C" {

// theta, path, fields: (frames, nodes, C) with frames `apart` floats from each other, the last two being expectations and
// theta after all iterations; start (nodes, C): expectations of the frame before. `room`: nodes * C (4K + 2) floats.
void field_forward(const float* theta, const float* start, const float* time, const float* frequency,
                   const float* schedule, float* path, float* fields, float* room, int frames, int nodes, int even,
                   int iterations, int accumulating, long apart) {
    const Field field = {nodes, even, iterations, accumulating != 0, time, frequency, schedule};
    const int size = nodes * C;
    float *spins = room, *target = spins + (iterations + 1) * size, *told = target + iterations * size;
    float *u = told + 2 * iterations * size, *last = spins + iterations * size;
    for (int t = 0; t < frames; t++) {
        copy(theta + t * apart, size, fields + t * apart);
        infer(field, t ? path + (t - 1) * apart : start, fields + t * apart, spins, target, told, u);
        copy(last, size, path + t * apart);
    }
}

// Gradients of theta (into `out`), of `start` (added to `carried`, which holds that of the last expectations) and of the
// weights (added to `totals`: (K, C, C), (K, C, 2C), (K, C)), from those of path and fields. Weights come transposed and
// as they are. `room`: nodes * C (4K + 7) floats.
void field_backward(const float* theta, const float* start, const float* time, const float* frequency,
                    const float* schedule, const float* time_rows, const float* frequency_rows, const float* path,
                    const float* to_path, const float* to_fields, float* carried, float* out, float* totals,
                    float* room, int frames, int nodes, int even, int iterations, int accumulating, long apart) {
    const Field field = {nodes, even, iterations, accumulating != 0, time, frequency, schedule};
    const int size = nodes * C;
    float *spins = room, *target = spins + (iterations + 1) * size, *told = target + iterations * size;
    float *u = told + 2 * iterations * size, *own = u + size, *back = own + size, *total = back + 2 * size;
    float *zero = total + size, *to_time = totals, *to_frequency = to_time + iterations * C * C;
    float* to_schedule = to_frequency + iterations * 2 * C * C;
    for (int i = 0; i < 2 * C; i++) zero[i] = 0.f;
    for (long t = frames - 1; t >= 0; t--) {
        const float* before = t ? path + (t - 1) * apart : start;
        float* to_theta = out + t * apart;
        copy(theta + t * apart, size, own);
        infer(field, before, own, spins, target, told, u);
        copy(to_fields + t * apart, size, to_theta);
        for (int i = 0; i < size; i++) total[i] = carried[i] + to_path[t * apart + i];
        for (int i = 0; i < size; i++) carried[i] = 0.f;
        for (int k = iterations - 1; k >= 0; k--) {
            const float *step = schedule + k * C, *old = spins + k * size, *aim = target + k * size;
            const float* rows_of = frequency_rows + k * 2 * C * C;
            for (int odd = 1; odd >= 0; odd--) {
                const int first = odd ? even : 0, rows = odd ? nodes - even : even;
                for (int i = first * C, n = 0; n < rows; n++)
                    for (int c = 0; c < C; c += LANES, i += LANES) {
                        const Floats arrived = load(total + i), reached = load(aim + i), far = load(step + c);
                        store(to_schedule + k * C + c, load(to_schedule + k * C + c) + arrived * (reached - load(old + i)));
                        const Floats slope = arrived * far * (1.f - reached * reached), sum = load(to_theta + i) + slope;
                        store(to_theta + i, sum);
                        store(u + i, field.accumulating ? sum : slope);
                        store(total + i, arrived * (1.f - far));
                    }
                accumulate<C, 2 * C>(u + first * C, told + k * 2 * size + first * 2 * C, rows, to_frequency + k * 2 * C * C);
                product<C, 2 * C>(u + first * C, rows, rows_of, zero, false, back);
                scatter(field, back, odd, total);
            }
            accumulate<C, C>(u, before, nodes, to_time + k * C * C);
            product<C, C>(u, nodes, time_rows + k * C * C, carried, true, carried);
        }
    }
}
}
