"""`deepnmf enhance --engine ray` on a cluster of two workers, and recordings behind addresses."""

import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import soundfile

from deepnmf_cli.commands import remote
from deepnmf_cli.commands.record import RECORD
from deepnmf_cli.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_SOME_FAILED, EXIT_USAGE, ClusterError

ROOT = Path(__file__).parents[2]
RATE_HZ = 16000


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """Of the cluster and of its drivers; Ray keeps a token in the home folder."""
    home = tmp_path_factory.mktemp("home")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "AWS_"))}
    return kept | {
        "PYTHONPATH": str(ROOT), "HOME": str(home), "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0",
        "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1",
    }  # fmt: skip


@pytest.fixture(scope="session")
def store(environment):
    """The address of a server that speaks S3, with a latency of 20 ms. Of the buckets there, "flaky" fails every
    seventh time, "full" takes nothing, and "private" gives nothing."""
    pytest.importorskip("s3fs", reason="needs s3fs")
    app = pytest.importorskip("moto.server", reason="needs moto and flask").DomainDispatcherApplication
    from moto.moto_server.werkzeug_app import create_backend_app
    from werkzeug.serving import make_server

    inner, count = app(create_backend_app), 0

    def serve(request, start):
        nonlocal count
        count += 1
        time.sleep(0.02)
        bucket, put = request["PATH_INFO"].split("/")[1], request["REQUEST_METHOD"] in ("PUT", "POST")
        for wrong, status, code in (
            (bucket == "flaky" and count % 7 == 0 and request["PATH_INFO"].count("/") > 1, "503 Slow Down", "SlowDown"),
            (
                bucket == "full"
                and put
                and ".deepnmf" not in request["PATH_INFO"]
                and request["PATH_INFO"].count("/") > 1,
                "403 Forbidden",
                "QuotaExceeded",
            ),
            (
                bucket == "private"
                and request["PATH_INFO"].count("/") >= 1
                and not (put and request["PATH_INFO"].count("/") == 1),
                "403 Forbidden",
                "AccessDenied",
            ),
        ):
            if wrong:
                request["wsgi.input"].read(int(request.get("CONTENT_LENGTH") or 0))
                start(status, [("Content-Type", "application/xml")])
                return [f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()]
        return inner(request, start)

    server = make_server("127.0.0.1", 0, serve, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    environment["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{server.server_port}"
    yield environment["AWS_ENDPOINT_URL"]
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def bucket(store, environment, monkeypatch):
    """bucket(name) -> fsspec's S3 with an empty bucket of this name."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.setenv(name, environment[name])
    import s3fs

    def make(name: str):
        files = s3fs.S3FileSystem(skip_instance_cache=True)
        files.mkdir(name)
        return files

    return make


@pytest.fixture(scope="session")
def cluster(environment, store):
    """The address of a cluster with two CPUs."""
    pytest.importorskip("ray", reason="needs the extra [cluster]")
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = [
        "--node-ip-address=127.0.0.1",
        f"--port={port}",
        "--num-cpus=2",
        "--num-gpus=0",
        "--include-dashboard=false",
    ]
    options += ["--object-store-memory=100000000", "--disable-usage-stats", "--block"]
    with subprocess.Popen([*ray, "start", "--head", *options], env=environment, cwd=environment["HOME"],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True) as head:  # fmt: skip
        reader = threading.Thread(target=head.stdout.read, daemon=True)
        reader.start()
        deadline = time.monotonic() + 120
        while True:
            assert head.poll() is None and time.monotonic() < deadline
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        yield f"127.0.0.1:{port}"
        head.send_signal(signal.SIGTERM)
        try:
            head.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(head.pid, signal.SIGKILL)
        reader.join(10)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a tree of recordings, one of them broken."""
    monkeypatch.chdir(tmp_path)
    Path("in/day").mkdir(parents=True)
    for i, name in enumerate(["a.wav", "b.flac", "day/c.wav", "day/d.wav"]):
        sound = 0.1 * np.random.default_rng(i).standard_normal((RATE_HZ * (i + 1), 1 + i % 2))
        soundfile.write(f"in/{name}", sound, RATE_HZ)
    Path("in/bad.wav").write_text("text")
    return tmp_path


@pytest.fixture
def program(environment, folder):
    """program(*arguments) -> the finished process; program.start(...) -> one that runs."""

    def start(*arguments: object) -> subprocess.Popen:
        command = [sys.executable, "-m", "deepnmf_cli", "enhance", "--model", "tiny", *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, env=environment, start_new_session=True, **pipes)

    def run(*arguments: object) -> subprocess.CompletedProcess:
        process = start(*arguments)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    run.start = start
    return run


def sounds(folder: str) -> dict[str, bytes]:
    """Name -> content of all files of a tree, but for records."""
    files = (path for path in Path(folder).rglob("*") if path.is_file() and path.name != RECORD)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def objects(files, place: str) -> dict[str, bytes]:
    files.invalidate_cache()
    found = (name for name in files.find(place) if remote.RECORDS not in name)
    return {name.removeprefix(f"{place}/"): files.cat_file(name) for name in found}


def rows(text: str) -> dict[str, tuple]:
    """Input -> what is told of it, less the times."""
    lines = [json.loads(line) for line in text.splitlines()]
    return {x.get("input"): tuple(v for k, v in x.items() if "real" not in k and "elapsed" not in k) for x in lines}


def holder(pattern: str) -> int:
    """The process that holds open the partial output of this name, in the current folder."""
    pattern = os.path.join(os.path.realpath(os.curdir), pattern)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for link in (link for process in Path("/proc").glob("[0-9]*") for link in process.glob("fd/*")):
            try:
                if pattern in os.readlink(link) and "deepnmf-partial" in os.readlink(link):
                    return int(link.parts[2])
            except OSError:
                continue
        time.sleep(0.01)
    raise AssertionError("nobody works at it")


linux = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks for processes in /proc")


# A cluster


@linux
def test_a_killed_worker_costs_its_file_one_retry_and_all_is_as_on_one_machine(cluster, program):
    sound = 0.1 * np.random.default_rng(9).standard_normal(RATE_HZ * 100)
    soundfile.write("in/long.wav", sound, RATE_HZ)
    alone = program("in", "-o", "alone", "--json", "--jobs", 1)
    spread = program.start("in", "-o", "out", "--json", "--engine", "ray", "--address", cluster)
    os.kill(holder("out/.long-"), signal.SIGKILL)
    out, err = spread.communicate(timeout=120)
    assert alone.returncode == spread.returncode == EXIT_SOME_FAILED, err
    assert sounds("out") == sounds("alone") and len(sounds("out")) == 5
    assert rows(out.replace("out/", "alone/")) == rows(alone.stdout)
    again = program("in", "-o", "out", "--json", "--skip-existing", "--engine", "ray", "--address", cluster)
    assert json.loads(again.stdout.splitlines()[-1])["skipped"] == 5


@linux
def test_a_worker_that_dies_twice_over_a_file_fails_it(cluster, program):
    soundfile.write("in/long.wav", np.zeros(RATE_HZ * 2000), RATE_HZ)
    process = program.start("in/long.wav", "in/a.wav", "-o", "out/", "--json", "--engine", "ray", "--address", cluster)
    first = holder("out/.long-")
    os.kill(first, signal.SIGKILL)
    while (second := holder("out/.long-")) == first:
        time.sleep(0.01)
    os.kill(second, signal.SIGKILL)
    out, err = process.communicate(timeout=120)
    assert process.returncode == EXIT_SOME_FAILED, err
    assert "long.wav: found a process that ended unexpectedly" in err and "Traceback" not in err
    assert "out/a.wav" in out and list(sounds("out")).count("a.wav") == 1


@linux
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_a_driver_that_ends_leaves_no_half_file_and_is_resumed(cluster, program, ending):
    soundfile.write("in/long.wav", np.zeros(RATE_HZ * 2000), RATE_HZ)
    os.remove("in/bad.wav")
    arguments = ["in", "-o", "out", "--json", "--engine", "ray", "--address", cluster]
    process = program.start(*arguments)
    holder("out/.long-")
    done = json.loads(process.stdout.readline())["output"]
    (os.killpg if ending == signal.SIGINT else os.kill)(process.pid, ending)
    out, err = process.communicate(timeout=60)
    if ending == signal.SIGINT:
        assert process.returncode == EXIT_INTERRUPTED and err.splitlines()[-1] == "Interrupted."
        assert json.loads(out.splitlines()[-1])["stopped"] == "interrupted"
        assert not list(Path("out").rglob("*deepnmf-partial*"))
    assert not Path("out/long.wav").exists()
    shutil.copy("in/a.wav", "in/long.wav")
    before = Path(done).stat().st_mtime_ns
    again = program(*arguments, "--skip-existing")
    assert again.returncode == EXIT_DONE and Path(done).stat().st_mtime_ns == before
    assert json.loads(again.stdout.splitlines()[-1])["skipped"] >= 1
    assert len(sounds("out")) == 5  # partial outputs of killed workers are gone, too


def test_a_model_of_ones_own_and_a_store_of_objects_without_common_files(cluster, program, bucket, tmp_path):
    files = bucket("cluster")
    files.put("in", "cluster/", recursive=True)
    own = tmp_path / "own"
    shutil.copytree(ROOT / "models/tiny", own)
    chosen = "--model", own / "model.safetensors", "--backend", "onnx"
    alone = program("in", "-o", "alone", *chosen, "--jobs", 1)
    spread = program("s3://cluster/in", "-o", "s3://cluster/out", "--engine", "ray", "--address", cluster, *chosen)
    assert alone.returncode == spread.returncode == EXIT_SOME_FAILED, spread.stderr
    assert objects(files, "cluster/out") == sounds("alone")


def test_a_cluster_that_is_not_there_or_of_another_version(cluster, deepnmf, folder, monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{nobody.getsockname()[1]}"
        result = deepnmf("enhance", "in", "-o", "out", "--engine", "ray", "--address", address)
    assert result.code == EXIT_FAILED and f"{address}: found no cluster of Ray that answers" in result.err
    assert len(result.err.splitlines()) == 1 and not Path("out").exists()
    script = "import ray, sys; ray.__version__ = '0.1'; from deepnmf_cli.main import run; run(sys.argv[1:])"
    command = [sys.executable, "-c", script, "enhance", "in", "-o", "out", "--engine", "ray", "--address", cluster]
    other = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert other.returncode == EXIT_FAILED and "expected Ray 0.1 on Python" in other.stderr
    assert "Traceback" not in other.stderr and not Path("out").exists()


def test_reports_on_the_use_of_ray_are_off(environment):
    pytest.importorskip("ray", reason="needs the extra [cluster]")
    script = """
import ray
from deepnmf_cli.commands import cluster
from ray._common.usage import usage_lib
ray.init = lambda *_, **__: print(usage_lib.usage_stats_enabled())
ray.cluster_resources = dict
with cluster.connected(None):
    pass
"""
    for value, told in ((None, "False"), ("1", "True")):
        env = {k: v for k, v in environment.items() if k != "RAY_USAGE_STATS_ENABLED"}
        env |= {} if value is None else {"RAY_USAGE_STATS_ENABLED": value}
        done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True)
        assert done.stdout.strip() == told, done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["in", "-o", "out", "--address", "a:1"], "--address: found no --engine ray"),
        (["in/a.wav", "--repair", "--gaps", "marks.txt", "--engine", "ray"], "--gaps: found --engine ray beside it"),
        (["-", "-o", "out.wav", "--engine", "ray"], "--engine ray: found standard input or output"),
        (["memory://in", "-o", "memory://out", "--engine", "ray"], "found what only one process sees"),
        (["memory://in"], "memory://in: found no output beside an address"),
        (["memory://in", "--in-place"], "memory://in: found --in-place beside an address"),
        (["nosuch://in", "-o", "out"], "found the protocol nosuch"),
    ],
)
def test_what_cannot_be_asked_for(deepnmf, stub, folder, arguments, message):
    result = deepnmf("enhance", *arguments)
    assert result.code == EXIT_USAGE and message in result.err


# Addresses, in one process


@pytest.fixture
def memory(folder):
    """fsspec's file system in memory, with the recordings."""
    files = pytest.importorskip("fsspec").filesystem("memory")
    files.put("in", "/", recursive=True)
    yield files
    files.store.clear()


def test_addresses_keep_the_tree_and_are_resumed_by_the_record(deepnmf, stub, memory):
    result = deepnmf("enhance", "memory://in", "-o", "memory://out", "--json", "--jobs", 1)
    assert result.code == EXIT_SOME_FAILED, result.err
    deepnmf("enhance", "in", "-o", "local", "--jobs", 1)
    assert {k.removeprefix("/"): v for k, v in objects(memory, "/out").items()} == sounds("local")
    assert result.lines[0]["output"] == "memory://out/a.wav"

    def counts(*arguments):
        summary = deepnmf("enhance", "memory://in", "-o", "memory://out", "--json", *arguments).lines[-1]
        return summary["done"], summary["skipped"], summary["failed"]

    assert counts("--skip-existing") == (0, 4, 1)
    memory.pipe_file("in/a.wav", memory.cat_file("in/day/c.wav"))  # another input of the name
    assert counts("--skip-existing") == (0, 4, 1)
    assert counts("--skip-existing", "--overwrite") == (1, 3, 1)
    assert counts("--skip-existing", "--overwrite", "--mix", "0.5") == (4, 0, 1)
    assert counts("--skip-existing", "--overwrite", "--mix", "0.5") == (0, 4, 1)
    memory.rm("out/.deepnmf-enhanced", recursive=True)
    assert counts("--skip-existing") == (0, 4, 1)  # of unknown origin, and no older
    result = deepnmf("enhance", "memory://in", "-o", "memory://out")
    assert result.code == EXIT_USAGE and "found an existing file" in result.err


def test_outputs_below_the_inputs_are_no_inputs(deepnmf, stub, memory):
    """As for folders of this machine: the run can be repeated."""
    arguments = ["enhance", "memory://in", "-o", "memory://in/clean", "--noise-out", "memory://in/rest", "--jobs", 1]
    assert deepnmf(*arguments).code == EXIT_SOME_FAILED
    result = deepnmf(*arguments, "--skip-existing", "--json")
    assert result.code == EXIT_SOME_FAILED and result.lines[-1]["skipped"] == 4, result.err


def test_the_record_of_one_local_output_lies_beside_it(deepnmf, stub, memory, folder):
    assert deepnmf("enhance", "memory://in/a.wav", "-o", "fromurl.wav", "--skip-existing").code == EXIT_DONE
    assert list(folder.glob(".deepnmf-enhanced/*.jsonl"))
    assert deepnmf("enhance", "memory://in/a.wav", "-o", "fromurl.wav", "--skip-existing").err == "1 file skipped.\n"


def test_what_is_done_when_workers_are_told_to_end_is_reported(monkeypatch):
    """Its outputs exist: without a line of the record, the next run in place would change them once more."""
    from deepnmf_cli.commands import cluster

    class Actor:
        def __getattr__(self, name):
            return SimpleNamespace(remote=lambda *given: (name, *given, next(calls)))

    def wait(awaited, num_returns=1, timeout=None):
        if timeout == cluster.WAITING_S and all(one[0] == "do" for one in awaited):
            raise KeyboardInterrupt
        return list(awaited), []

    calls = itertools.count()

    fake = ModuleType("ray")
    fake.remote = lambda **resources: lambda worker: SimpleNamespace(remote=Actor)
    fake.put, fake.kill, fake.wait = (lambda x: x), (lambda actor: None), wait
    fake.get = lambda awaited: (
        None if awaited[0] == "prepare" else ((None if awaited[1] == "b" else awaited[1] * 2), 1.0)
    )
    fake.exceptions = ModuleType("ray.exceptions")
    fake.exceptions.RayActorError, fake.exceptions.RayError = KeyError, LookupError
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.setitem(sys.modules, "ray.exceptions", fake.exceptions)
    found = []
    with cluster.RayWorkers(2, 0, lambda: None) as workers, pytest.raises(KeyboardInterrupt):
        for task, result in workers.run(["a", "b", "c"], lambda amount: None):
            found.append((task, result))
    assert found == [("a", "aa")]  # b was abandoned, c never begun


def test_workers_that_cannot_be_replaced_end_the_work(monkeypatch):
    """Two workers are prepared; each dies at work, and so does every other one that takes its place, when prepared."""
    from deepnmf_cli.commands import cluster

    class Actor:
        def __getattr__(self, name):
            return SimpleNamespace(remote=lambda *given: (name, *given, next(calls)))

    def get(awaited):
        if awaited[0] == "do" or next(prepared) >= 2:
            raise KeyError("died")

    calls, prepared = itertools.count(), itertools.count()
    fake, exceptions = ModuleType("ray"), ModuleType("ray.exceptions")
    fake.remote = lambda **resources: lambda worker: SimpleNamespace(remote=Actor)
    fake.put, fake.kill, fake.get = (lambda x: x), (lambda actor: None), get
    fake.wait = lambda awaited, num_returns=1, timeout=None: (awaited[:1], [])
    fake.exceptions = exceptions
    exceptions.RayActorError, exceptions.RayError = KeyError, LookupError
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.setitem(sys.modules, "ray.exceptions", exceptions)
    with cluster.RayWorkers(2, 0, lambda: None) as workers, pytest.raises(ClusterError):
        list(workers.run(["a", "b", "c"], lambda amount: None))
    assert next(prepared) == 4


def test_one_file_its_noise_and_paths_beside_addresses(deepnmf, stub, memory):
    result = deepnmf("enhance", "memory://in/a.wav", "-o", "memory://x.wav", "--noise-out", "noise.wav")
    assert result.code == EXIT_DONE, result.err
    assert memory.exists("/x.wav") and soundfile.info("noise.wav").frames == RATE_HZ
    assert deepnmf("enhance", "in/a.wav", "-o", "memory://deep/y.flac").code == EXIT_DONE
    before = Path("noise.wav").read_bytes()
    options = ["--noise-profile", "noise.wav", "--overwrite"]
    assert deepnmf("enhance", "memory://in/a.wav", "-o", "./noise.wav", *options).code == EXIT_USAGE
    assert Path("noise.wav").read_bytes() == before
    assert deepnmf("enhance", f"file://{os.getcwd()}/in/a.wav", "-o", "z.wav").code == EXIT_DONE
    result = deepnmf("enhance", "memory://in/bad.wav", "-o", "memory://bad.wav")
    assert result.code == EXIT_FAILED and "memory://in/bad.wav: found no audio" in result.err
    result = deepnmf("enhance", "memory://none", "-o", "memory://out")
    assert result.code == EXIT_FAILED and "memory://none: found nothing there" in result.err


def test_an_output_behind_an_address_appears_whole(memory, monkeypatch, folder):
    """Where a file system shows files that grow, they grow under another name."""
    monkeypatch.setattr(remote, "WHOLE", set())
    remote.deliver(Path("in/a.wav"), "memory://out/a.wav")
    assert objects(memory, "/out") == {"a.wav": Path("in/a.wav").read_bytes()}
    monkeypatch.setattr(type(memory), "mv", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(remote.AudioError, match="cannot be written .No space left"):
        remote.deliver(Path("in/a.wav"), "memory://out/b.wav")
    assert list(objects(memory, "/out")) == ["a.wav"]


def test_a_store_that_is_slow_and_fails_at_times(deepnmf, stub, folder, bucket):
    files = bucket("flaky")
    files.put("in", "flaky/", recursive=True)
    result = deepnmf("enhance", "s3://flaky/in", "-o", "s3://flaky/out", "--jobs", 1)
    assert result.code == EXIT_SOME_FAILED and result.err.count("Error: ") == 1, result.err
    deepnmf("enhance", "in", "-o", "local", "--jobs", 1)
    assert objects(files, "flaky/out") == sounds("local")


def test_a_full_bucket_and_one_without_rights_lose_nothing(deepnmf, stub, folder, bucket):
    bucket("full")
    result = deepnmf("enhance", "in", "-o", "s3://full/out", "--jobs", 1)
    assert result.code == EXIT_FAILED and "s3://full/out/a.wav: found" in result.err and "QuotaExceeded" in result.err
    assert "Traceback" not in result.err and len(sounds("in")) == 5
    bucket("private")
    result = deepnmf("enhance", "s3://private/in", "-o", "out", "--jobs", 1)
    assert result.code == EXIT_FAILED and "s3://private/in: found no right to this" in result.err
    result = deepnmf("enhance", "in", "-o", "s3://private/out", "--jobs", 1)
    assert result.code == EXIT_FAILED and result.err.count("found no right to this") == 4
    assert not os.path.exists("out")
