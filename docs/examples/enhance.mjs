// Enhance a recording in JavaScript: node enhance.mjs MODEL NOISY CLEAN, after npm install onnxruntime-web
// MODEL is what `deepnmf export base --streaming -o base.streaming.onnx` writes; NOISY a WAV file of one channel, 16
// bits, at 16 kHz. Every frame is handled as if it had just been recorded, by a worklet for example.
import { readFileSync, writeFileSync } from "node:fs";
import * as ort from "onnxruntime-web";

const HOP = 256, SIZE = 2 * HOP, BINS = HOP + 1; // 16 ms at 16 kHz, windows of two hops
const [model, noisy, clean] = process.argv.slice(2);

// Square root of the periodic Hann window, at analysis and at synthesis; magnitudes are divided by its sum.
const hann = Float64Array.from({ length: SIZE }, (_, i) => Math.sin((Math.PI * i) / SIZE));
const gain = hann.reduce((sum, value) => sum + value);
const cosine = Float64Array.from({ length: SIZE }, (_, i) => Math.cos((2 * Math.PI * i) / SIZE));
const sine = Float64Array.from({ length: SIZE }, (_, i) => Math.sin((2 * Math.PI * i) / SIZE));

const session = await ort.InferenceSession.create(readFileSync(model));
const zeros = (shape) => new ort.Tensor("float32", new Float32Array(shape.reduce((a, b) => a * b)), shape);
const [{ name: heard }, ...inputs] = session.inputMetadata; // "magnitude", or "features" with phase
let states = inputs.map((s) => [s.name, zeros(s.shape)]), before = [new Float64Array(BINS), new Float64Array(BINS)];
const past = new Float64Array(SIZE), overlap = new Float64Array(HOP);

/** One hop of samples in, one hop of speech out, which lags a hop behind. */
async function denoise(samples) {
  past.copyWithin(0, HOP);
  past.set(samples, HOP);
  const re = new Float64Array(BINS), im = new Float64Array(BINS);
  for (let f = 0; f < BINS; f++) // a Fourier transform by its definition; a library is faster
    for (let i = 0, angle = 0; i < SIZE; i++, angle = (angle + f) % SIZE) {
      re[f] += (past[i] * hann[i] * cosine[angle]) / gain;
      im[f] -= (past[i] * hann[i] * sine[angle]) / gain;
    }
  const planes = [re.map((x, f) => Math.hypot(x, im[f]))];
  if (heard === "features") // products with the frame before, whose sign alternates, and with the next bin
    for (const [u, v, sign] of [[...before, -1], [[...re.slice(1), 0], [...im.slice(1), 0], 1]])
      planes.push(re.map((x, f) => sign ** f * (x * u[f] + im[f] * v[f])), re.map((x, f) => sign ** f * (im[f] * u[f] - x * v[f])));
  const input = Float32Array.from(planes.flatMap((plane) => [...plane])), shape = planes.length > 1 ? [1, 5, BINS, 1] : [1, BINS, 1];
  const result = await session.run({ [heard]: new ort.Tensor("float32", input, shape), ...Object.fromEntries(states) });
  [before, states] = [[re, im], states.map(([name]) => [name, result[`next_${name}`]])];
  const speech = new Float64Array(SIZE), masks = result.masks.data;
  for (let f = 0; f < BINS; f++) {
    const m = masks[f], turn = masks[2 * BINS + f] ?? 0; // speech, noise, and with phase the imaginary part of speech
    const x = m * re[f] - turn * im[f], y = m * im[f] + turn * re[f], weight = ((f % HOP ? 2 : 1) / SIZE) * gain;
    for (let i = 0, angle = 0; i < SIZE; i++, angle = (angle + f) % SIZE)
      speech[i] += weight * (x * cosine[angle] - y * sine[angle]) * hann[i];
  }
  const ready = overlap.map((value, i) => value + speech[i]);
  overlap.set(speech.subarray(HOP));
  return ready;
}

const file = readFileSync(noisy), start = file.indexOf("data") + 8, count = (file.length - start) >> 1;
const output = Buffer.from(file);
for (let first = 0; first < count + HOP; first += HOP) {
  const piece = Float64Array.from({ length: HOP }, (_, i) => (first + i < count ? file.readInt16LE(start + 2 * (first + i)) / 32768 : 0));
  (await denoise(piece)).forEach((value, i) => {
    const at = first - HOP + i; // the hop that has just become final
    if (at >= 0 && at < count) output.writeInt16LE(Math.max(-32768, Math.min(32767, Math.round(32768 * value))), start + 2 * at);
  });
}
writeFileSync(clean, output);
