// Enhance a recording in JavaScript: node enhance.mjs MODEL NOISY CLEAN, after npm install onnxruntime-web
// MODEL is what `deepnmf export base --streaming -o base.streaming.onnx` writes; NOISY a WAV file of one channel, 16
// bits, at 16 kHz. Every frame is handled as if it had just been recorded, by a worklet for example.
import { readFileSync, writeFileSync } from "node:fs";
import * as ort from "onnxruntime-web";

const HOP = 256; // 16 ms at 16 kHz
const [model, noisy, clean] = process.argv.slice(2), session = await ort.InferenceSession.create(readFileSync(model));
const [{ name: features, shape: form }, ...inputs] = session.inputMetadata; // "magnitude", or "features" with phase
const BINS = form.at(-2), SIZE = 2 * BINS - 2, OLD = SIZE - HOP, KEPT = SIZE - 2 * HOP; // a window of two hops or more
const table = (size, value) => Float64Array.from({ length: size }, (_, i) => value(i));
// The window rises slowly and falls within a hop; with that of the synthesis, which has two hops, it makes a Hann window.
const window = table(SIZE, (i) => (i < OLD ? Math.sin((Math.PI * i) / OLD / 2) : Math.cos((Math.PI * (i - OLD)) / HOP / 2)));
const gain = window.reduce((sum, value) => sum + value); // magnitudes are divided by it
const synthesis = table(2 * HOP, (i) => Math.sin((Math.PI * i) / HOP / 2) ** 2 / (window[KEPT + i] || 1));
const cosine = table(SIZE, (i) => Math.cos((2 * Math.PI * i) / SIZE)), sine = table(SIZE, (i) => Math.sin((2 * Math.PI * i) / SIZE));
const past = new Float64Array(SIZE), overlap = new Float64Array(HOP);
const zeros = (shape) => new ort.Tensor("float32", new Float32Array(shape.reduce((a, b) => a * b)), shape);
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
const offset = runningMean(), reciprocal = runningMean();
let waiting = new Float64Array(HOP);
let states = inputs.map((s) => [s.name, zeros(s.shape)]), before = [new Float64Array(BINS), new Float64Array(BINS)];

/** One hop of samples in, one hop of speech out, which lags a hop behind. */
async function denoise(samples) {
  // A constant offset is no sound, and misleads.
  const constant = offset(samples.reduce((sum, x) => sum + x) / HOP, samples.every((x) => x === 0));
  past.copyWithin(0, HOP);
  past.set(samples.map((x, i) => x - constant[i]), OLD);
  const re = new Float64Array(BINS), im = new Float64Array(BINS);
  for (let f = 0; f < BINS; f++) // a Fourier transform by its definition; a library is faster
    for (let i = 0, angle = 0; i < SIZE; i++, angle = (angle + f) % SIZE) {
      re[f] += (past[i] * window[i] * cosine[angle]) / gain;
      im[f] -= (past[i] * window[i] * sine[angle]) / gain;
    }
  const planes = [re.map((x, f) => Math.hypot(x, im[f]))];
  if (features === "features") // products with the frame before, turned by a hop, and with the next bin
    for (const [u, v] of [before, [[...re.slice(1), 0], [...im.slice(1), 0]]])
      planes.push(re.map((x, f) => x * u[f] + im[f] * v[f]), re.map((x, f) => im[f] * u[f] - x * v[f]));
  const input = Float32Array.from(planes.flatMap((plane) => [...plane])), shape = planes.length > 1 ? [1, 5, BINS, 1] : [1, BINS, 1];
  const result = await session.run({ [features]: new ort.Tensor("float32", input, shape), ...Object.fromEntries(states) });
  states = states.map(([name]) => [name, result[`next_${name}`]]);
  const c = re.map((_, f) => cosine[(f * HOP) % SIZE]), s = re.map((_, f) => sine[(f * HOP) % SIZE]);
  before = [re.map((x, f) => x * c[f] - im[f] * s[f]), re.map((x, f) => x * s[f] + im[f] * c[f])];
  const speech = new Float64Array(2 * HOP), masks = result.masks.data;
  let least = Infinity; // gain of any frequency
  for (let f = 0; f < BINS; f++) {
    const m = masks[f], turn = masks[2 * BINS + f] ?? 0; // speech, noise, and with phase the imaginary part of speech
    least = Math.min(least, Math.hypot(m, turn));
    const x = m * re[f] - turn * im[f], y = m * im[f] + turn * re[f], weight = ((f % (BINS - 1) ? 2 : 1) / SIZE) * gain;
    for (let i = 0, angle = (f * KEPT) % SIZE; i < 2 * HOP; i++, angle = (angle + f) % SIZE)
      speech[i] += weight * (x * cosine[angle] - y * sine[angle]) * synthesis[i];
  }
  const back = reciprocal(1 / Math.max(least, 1e-6)); // what is left of the offset, in the long run
  const ready = overlap.map((value, i) => value + speech[i] + waiting[i] / back[i]);
  waiting = constant;
  overlap.set(speech.subarray(HOP));
  return ready;
}

const file = readFileSync(noisy), output = Buffer.from(file), start = file.indexOf("data") + 8, count = (file.length - start) >> 1;
for (let first = 0; first < count + HOP; first += HOP) {
  const piece = Float64Array.from({ length: HOP }, (_, i) => (first + i < count ? file.readInt16LE(start + 2 * (first + i)) / 32768 : 0));
  (await denoise(piece)).forEach((value, i) => {
    const at = first - HOP + i; // the hop that has just become final
    if (at >= 0 && at < count) output.writeInt16LE(Math.max(-32768, Math.min(32767, Math.round(32768 * value))), start + 2 * at);
  });
}
writeFileSync(clean, output);
