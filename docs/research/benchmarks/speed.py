"""Speed of enhancement on one core, side by side with other programs in one run.

    python docs/research/benchmarks/speed.py [--rounds 5] [--minutes 10] [--model NAME ...]

Three tables: whole processes on a file of ten seconds, whole processes on a long file, frames that arrive one by one.
Every contender runs in a process of its own on one core, and contenders take turns. Machine code takes part where
`deepnmf build-native` made it, noisereduce, pyrnnoise and webrtc_noise_gain where they are installed; RNNoise works at
48 kHz, the others at 16 kHz. On a busy machine look at CPU times.
"""

import argparse
import ctypes
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import soundfile

ROOT = Path(__file__).parents[3]
SECONDS = 10


def rnnoise_library() -> ctypes.CDLL:
    folder = importlib.util.find_spec("pyrnnoise").submodule_search_locations[0]
    library = ctypes.CDLL(str(Path(folder, "librnnoise.so")))
    library.rnnoise_create.restype = ctypes.c_void_p
    library.rnnoise_process_frame.argtypes = [ctypes.c_void_p] * 3
    return library


def deepnmf(backend: str, model: str):
    def work(source: str, target: str) -> None:
        from deepnmf_cli.main import run

        options = ["--backend", backend, "--model", model, "--device", "cpu", "--jobs", "1", "-q", "--overwrite"]
        try:
            run(["enhance", source, "-o", target, *options])
        except SystemExit as ended:
            if ended.code:
                raise

    return work


def noisereduce(source: str, target: str) -> None:
    import noisereduce

    samples, rate_hz = soundfile.read(source, dtype="float32")
    soundfile.write(target, noisereduce.reduce_noise(y=samples, sr=rate_hz), rate_hz)


def rnnoise(source: str, target: str) -> None:
    library = rnnoise_library()
    state, size = library.rnnoise_create(None), library.rnnoise_get_frame_size()
    samples, rate_hz = soundfile.read(source.replace(".16", ".48"), dtype="float32")
    frames = np.ascontiguousarray(samples[: len(samples) // size * size].reshape(-1, size) * 32768)
    for frame in frames:
        library.rnnoise_process_frame(state, frame.ctypes.data, frame.ctypes.data)
    soundfile.write(target, frames.ravel() / 32768, rate_hz)


def webrtc(source: str, target: str) -> None:
    from webrtc_noise_gain import AudioProcessor

    stream, size = AudioProcessor(0, 2), 160
    samples, rate_hz = soundfile.read(source, dtype="int16")
    frames = samples[: len(samples) // size * size].reshape(-1, size)
    out = b"".join(stream.Process10ms(frame.tobytes()).audio for frame in frames)
    soundfile.write(target, np.frombuffer(out, np.int16), rate_hz)


def imports(name: str):
    return lambda *_: __import__(name)


def backends() -> list[str]:
    from deepnmf_cli.native import library

    return ["native"] * bool(library.find()) + ["onnx"] + ["torch"] * bool(importlib.util.find_spec("torch"))


def contenders(models: list[str]) -> dict:
    found = {f"{model}, {backend}": deepnmf(backend, model) for model in models for backend in backends()}
    optional = {
        "noisereduce": ("noisereduce", noisereduce),
        "RNNoise": ("pyrnnoise", rnnoise),
        "WebRTC NS": ("webrtc_noise_gain", webrtc),
    }
    return found | {name: work for name, (package, work) in optional.items() if importlib.util.find_spec(package)}


def frames_one_by_one(name: str, model: str, seconds: float) -> list[tuple[float, float]]:
    """Milliseconds of wall and of CPU time of each frame of `seconds` of sound."""
    draw = np.random.default_rng(0)
    if name == "RNNoise":
        library = rnnoise_library()
        state, size, rate_hz = library.rnnoise_create(None), library.rnnoise_get_frame_size(), 48000

        def work(frame: np.ndarray) -> None:
            library.rnnoise_process_frame(state, frame.ctypes.data, frame.ctypes.data)
    else:
        from deepnmf_cli.zoo import load_enhancer

        stream = load_enhancer(model, "cpu", name, threads=1).stream(16000, 1)
        size, rate_hz = stream.pair.hop_samples, 16000

        def work(frame: np.ndarray) -> None:
            stream.feed(frame[None])

    frames = 0.1 * draw.standard_normal((round(seconds * rate_hz / size), size)).astype(np.float32)
    took = []
    for frame in frames:
        began = time.perf_counter(), time.thread_time()
        work(frame)
        took.append((1000 * (time.perf_counter() - began[0]), 1000 * (time.thread_time() - began[1])))
    return took[50:]  # the first ones fill caches


def child(task: str, *arguments: str) -> None:
    """What this script does in the processes that it starts."""
    if task == "frames":
        print(json.dumps(frames_one_by_one(arguments[0], arguments[1], 60)))
    elif task == "import":
        imports(arguments[0])()
    else:
        contenders([arguments[0].split(",")[0]])[arguments[0]](*arguments[1:])


def measure(*arguments: str) -> tuple[float, float, float, str]:
    """Wall seconds, CPU seconds and peak MiB of this script on one core with `arguments`, and what it printed."""
    began = time.perf_counter()
    core = max(os.sched_getaffinity(0))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, __file__, "--child", *arguments]
    started = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),  # noqa: PLW1509 - this process has one thread
    )
    printed = started.stdout.read()
    _, status, usage = os.wait4(started.pid, 0)
    wall = time.perf_counter() - began
    if status:
        raise SystemExit(f"{arguments} failed")
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, printed


def spread(values: list[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def sound(folder: Path, name: str, seconds: float) -> str:
    """Speech-like noise at 16 kHz, and beside it the same at 48 kHz."""
    draw = np.random.default_rng(0)
    for rate in (16, 48):
        with soundfile.SoundFile(folder / f"{name}.{rate}.wav", "w", 1000 * rate, 1, "PCM_16") as file:
            for second in range(round(seconds)):
                file.write(0.1 * draw.standard_normal(1000 * rate) * (0.1 + (second % 3 == 0)))
    return str(folder / f"{name}.16.wav")


def whole_processes(work: dict, source: str, seconds: float, rounds: int) -> None:
    target = str(Path(source).with_name("out.wav"))
    taken: dict[str, list] = {name: [] for name in work}
    for _ in range(rounds):
        for name in work:
            taken[name].append(measure("enhance", name, source, target))
    print(f"\n| {seconds:g} s of audio | wall, s | CPU, s | CPU / audio | peak, MiB |\n|---|---|---|---|---|")
    for name, runs in taken.items():
        wall, cpu, peak, _ = zip(*runs)
        ratio = statistics.median(cpu) / seconds
        print(f"| {name} | {spread(wall, 2)} | {spread(cpu, 2)} | {ratio:.4f} | {max(peak):.0f} |")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--minutes", type=float, default=10)
    arguments.add_argument("--model", action="append")
    given = arguments.parse_args()
    models = given.model or ["base"]
    for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[threads] = "1"
    versions = []
    for package in ("torch", "onnxruntime", "numpy", "noisereduce", "pyrnnoise", "webrtc-noise-gain"):
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            versions.append(f"no {package}")
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}; {', '.join(versions)}")
    print(f"One core; medians of {given.rounds} rounds, smallest and largest in brackets.")
    work = contenders(models)
    with tempfile.TemporaryDirectory() as folder:
        whole_processes(work, sound(Path(folder), "short", SECONDS), SECONDS, given.rounds)
        print("\n| import alone | CPU, s | peak, MiB |\n|---|---|---|")
        for name in filter(importlib.util.find_spec, ("numpy", "onnxruntime", "torch")):
            _, cpu, peak, _ = zip(*(measure("import", name) for _ in range(given.rounds)))
            print(f"| {name} | {spread(cpu, 2)} | {max(peak):.0f} |")
        seconds = 60 * given.minutes
        whole_processes(work, sound(Path(folder), "long", seconds), seconds, max(1, given.rounds // 2))
    points = [0.5, 0.99, 0.999, 1]
    print("\n| one frame | hop, ms | CPU, ms: median, 99 %, 99.9 %, longest | wall, ms |\n|---|---|---|---|")
    rows = [(backend, model, 16) for model in models for backend in backends()]
    for name, model, hop_ms in rows + [("RNNoise", "", 10)] * ("RNNoise" in work):
        took = np.concatenate([json.loads(measure("frames", name, model)[3]) for _ in range(given.rounds)])
        wall, cpu = (", ".join(f"{value:.2f}" for value in np.quantile(column, points)) for column in took.T)
        print(f"| {f'{model}, {name}' if model else name} | {hop_ms} | {cpu} | {wall} |")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
    else:
        main()
