// Enhance speech in JavaScript, hop by hop, with a model that `deepnmf export NAME --streaming -o model.onnx` wrote:
// on Node (enhance.mjs) and in a browser (browser.html) alike. One channel at 16 kHz.

export const HOP = 256; // 16 ms
const table = (size, value) => new Float64Array(size).map((_, i) => value(i));

/** A function from one hop of samples to one hop of speech, which lags a hop behind. `ort` is onnxruntime-web. */
export async function createDenoiser(ort, model) {
  const session = await ort.InferenceSession.create(model);
  const [{ name: features, shape: form }, ...inputs] = session.inputMetadata; // "magnitude", or "features" with phase
  const BINS = form.at(-2), SIZE = 2 * BINS - 2, OLD = SIZE - HOP, KEPT = SIZE - 2 * HOP; // a window of two hops or more
  // The window rises slowly and falls within a hop; with that of the synthesis, which has two hops, it makes a Hann window.
  const window = table(SIZE, (i) => (i < OLD ? Math.sin((Math.PI * i) / OLD / 2) : Math.cos((Math.PI * (i - OLD)) / HOP / 2)));
  const gain = window.reduce((sum, value) => sum + value); // magnitudes are divided by it
  const synthesis = table(2 * HOP, (i) => Math.sin((Math.PI * i) / HOP / 2) ** 2 / (window[KEPT + i] || 1));
  const turn = [Math.cos, Math.sin].map((part) => table(BINS, (f) => part((2 * Math.PI * ((f * HOP) % SIZE)) / SIZE))); // of a bin in a hop
  const transform = fourier(SIZE), offset = runningMean(), reciprocal = runningMean();
  const past = new Float64Array(SIZE), overlap = new Float64Array(HOP);
  const zeros = (shape) => new ort.Tensor("float32", new Float32Array(shape.reduce((a, b) => a * b)), shape);
  let states = inputs.map((s) => [s.name, zeros(s.shape)]);
  let before = [new Float64Array(BINS), new Float64Array(BINS)], waiting = new Float64Array(HOP);

  return async function denoise(samples) {
    // A constant offset is no sound, and misleads.
    const constant = offset(samples.reduce((sum, x) => sum + x) / HOP, samples.every((x) => x === 0));
    past.copyWithin(0, HOP);
    past.set(samples.map((x, i) => x - constant[i]), OLD);
    const [re, im] = transform(past.map((x, i) => (x * window[i]) / gain), new Float64Array(SIZE)).map((x) => x.slice(0, BINS));

    const planes = [re.map((x, f) => Math.hypot(x, im[f]))];
    if (features === "features") // products with the frame before, turned by a hop, and with the next bin
      for (const [u, v] of [before, [re, im].map((x) => table(BINS, (f) => x[f + 1] ?? 0))])
        planes.push(re.map((x, f) => x * u[f] + im[f] * v[f]), re.map((x, f) => im[f] * u[f] - x * v[f]));
    const input = new Float32Array(planes.length * BINS);
    planes.forEach((plane, i) => input.set(plane, i * BINS));
    const shape = planes.length > 1 ? [1, 5, BINS, 1] : [1, BINS, 1];
    const result = await session.run({ [features]: new ort.Tensor("float32", input, shape), ...Object.fromEntries(states) });
    states = states.map(([name]) => [name, result[`next_${name}`]]);
    before = [re.map((x, f) => x * turn[0][f] - im[f] * turn[1][f]), re.map((x, f) => x * turn[1][f] + im[f] * turn[0][f])];

    // Masks of speech, of noise, and with phase the imaginary part of that of speech. Real sound has a symmetric spectrum,
    // and a transform forward of its conjugate is the inverse.
    const masks = result.masks.data, real = new Float64Array(SIZE), imaginary = new Float64Array(SIZE);
    let least = Infinity;
    for (let f = 0; f < BINS; f++) {
      const m = masks[f], n = masks[2 * BINS + f] ?? 0;
      least = Math.min(least, Math.hypot(m, n));
      real[f] = real[(SIZE - f) % SIZE] = m * re[f] - n * im[f];
      imaginary[f] = f % (BINS - 1) ? -(m * im[f] + n * re[f]) : 0;
      if (f % (BINS - 1)) imaginary[SIZE - f] = -imaginary[f];
    }
    const [sound] = transform(real, imaginary);
    const speech = synthesis.map((value, i) => (sound[KEPT + i] * value * gain) / SIZE);
    const back = reciprocal(1 / Math.max(least, 1e-6)); // what is left of the offset, in the long run
    const ready = overlap.map((value, i) => value + speech[i] + waiting[i] / back[i]);
    waiting = constant;
    overlap.set(speech.subarray(HOP));
    return ready;
  };
}

/** Forgets in 250 hops, and runs in a straight line from hop to hop; starts anew where all is silent. */
function runningMean() {
  let sum = 0, weight = 0, last;
  return (value, silent = false) => {
    const [keep, fresh] = silent ? [0, 0] : [1 - 1 / 250, 1], before = last;
    [sum, weight] = [keep * sum + fresh * value, keep * weight + fresh];
    last = sum / (weight || 1);
    return table(HOP, (i) => (before ?? last) + ((last - (before ?? last)) * (i + 1)) / HOP);
  };
}

/** A function from real and imaginary parts to those of their Fourier transform, for a power of two. */
function fourier(size) {
  const cosine = table(size / 2, (i) => Math.cos((2 * Math.PI * i) / size)), sine = table(size / 2, (i) => Math.sin((2 * Math.PI * i) / size));
  const reversed = [0];
  for (let bit = size >> 1; reversed.length < size; bit >>= 1) reversed.push(...reversed.map((i) => i + bit));
  return (x, y) => {
    const re = table(size, (i) => x[reversed[i]]), im = table(size, (i) => y[reversed[i]]);
    for (let half = 1, step = size >> 1; half < size; half *= 2, step >>= 1)
      for (let start = 0; start < size; start += 2 * half)
        for (let i = start, k = 0; i < start + half; i++, k += step) {
          const u = re[i + half] * cosine[k] + im[i + half] * sine[k], v = im[i + half] * cosine[k] - re[i + half] * sine[k];
          re[i + half] = re[i] - u;
          im[i + half] = im[i] - v;
          re[i] += u;
          im[i] += v;
        }
    return [re, im];
  };
}
