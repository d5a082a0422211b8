// Enhance a recording in JavaScript: node enhance.mjs MODEL NOISY CLEAN, after npm install onnxruntime-web
// MODEL is what `deepnmf export base --streaming -o base.streaming.onnx` writes; NOISY a WAV file of one channel, 16
// bits, at 16 kHz. Every frame is handled as if it had just been recorded.
import { readFileSync, writeFileSync } from "node:fs";
import * as ort from "onnxruntime-web";
import { createDenoiser, HOP } from "./denoiser.mjs";

ort.env.wasm.numThreads = 1; // the network is small
const [model, noisy, clean] = process.argv.slice(2), denoise = await createDenoiser(ort, readFileSync(model));
const file = readFileSync(noisy), output = Buffer.from(file), start = file.indexOf("data") + 8, count = (file.length - start) >> 1;
for (let first = 0; first < count + HOP; first += HOP) {
  const piece = Float64Array.from({ length: HOP }, (_, i) => (first + i < count ? file.readInt16LE(start + 2 * (first + i)) / 32768 : 0));
  (await denoise(piece)).forEach((value, i) => {
    const at = first - HOP + i; // the hop that has just become final
    if (at >= 0 && at < count) output.writeInt16LE(Math.max(-32768, Math.min(32767, Math.round(32768 * value))), start + 2 * at);
  });
}
writeFileSync(clean, output);
