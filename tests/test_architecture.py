"""The rules of the house: who may import whom, and what the library never does."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import deepnmf_cli
from deepnmf_cli.commands.group import COMMANDS

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "deepnmf_cli"
MODULES = sorted(PACKAGE.rglob("*.py"))

LAYERS = [
    {"errors"},
    {"signals"},
    {"checkpoint", "external", "extras", "settings", "tables", "workers"},
    {"kernels", "pages"},
    {"inference", "signal"},
    {"unfold", "scoring"},
    {"networks", "corpus", "exported", "repair"},
    {"streaming", "model_file"},
    {"enhancer", "native"},
    {"training", "export", "inspector", "pace"},
    {"recipe", "treatment"},
    {"zoo", "experiment"},
    {"api"},
    {"commands"},
    {"main", ""},
    {"__main__"},
]
"""Rooms from the ground up, "" being the package itself. A module imports from its own room and from lower layers."""

HEIGHT = {room: height for height, layer in enumerate(LAYERS) for room in layer}

HEAVY = {"torch", "torchaudio", "numpy", "scipy", "soundfile", "librosa", "soxr", "safetensors", "matplotlib"}
HEAVY |= {"av", "fsspec", "onnx", "onnxruntime", "ray", "pesq", "pystoi", "fast_bss_eval", "jinja2", "PIL"}
"""Packages that cost start-up time."""


LIGHT_REACH, FULL_REACH = 60, 82
NOT_REACHED = {"training", "corpus", "scoring", "recipe"}
"""Modules that `enhance` may reach, without those that import torch and with them; and rooms that it does not reach."""


def room_of(path: Path) -> str:
    """The first name below the package: a folder, or a module beside __init__.py. "" is the package itself."""
    name = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if name == "__init__" else name


def imports(tree: ast.AST, path: Path, deferred: bool = True) -> Iterator[str]:
    """Dotted names that a module imports; without those inside functions and `if TYPE_CHECKING:` unless `deferred`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = path.relative_to(ROOT).parts[: -node.level]
                base = ".".join([*parent, base] if base else parent)
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif deferred or not is_deferred(node):
            yield from imports(node, path, deferred)


def is_deferred(node: ast.AST) -> bool:
    """Whether the code below a node does not run when the module is imported."""
    if isinstance(node, ast.If):
        return "TYPE_CHECKING" in ast.unparse(node.test)
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def packages(path: Path, deferred: bool = True) -> set[str]:
    """Top-level names that a module imports."""
    return {name.split(".")[0] for name in imports(parse(path), path, deferred)}


def imported_rooms(path: Path) -> set[str]:
    names = [name.split(".") for name in imports(parse(path), path)]
    # `__version__` is all that a module takes from the package itself.
    return {parts[1] for parts in names if parts[0] == "deepnmf_cli" and len(parts) > 1} - {"__version__"}


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """(dotted name, node) of every call in a module."""
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_every_form_of_import_is_seen():
    tree = ast.parse(
        "import torch.nn, deepnmf_cli.zoo\n"
        "from .stft import StftPair\n"
        "from .. import errors\n"
        "def f():\n    from deepnmf_cli.corpus import mixing\n"
        "if TYPE_CHECKING:\n    import numpy\n"
    )
    module = PACKAGE / "signal" / "audio.py"
    at_once = ["torch.nn", "deepnmf_cli.zoo", "deepnmf_cli.signal.stft.StftPair", "deepnmf_cli.errors"]
    assert list(imports(tree, module, deferred=False)) == at_once
    assert list(imports(tree, module)) == [*at_once, "deepnmf_cli.corpus.mixing", "numpy"]


def test_every_module_belongs_to_a_layer():
    assert {room_of(path) for path in MODULES} <= HEIGHT.keys()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_strictly_downward(path):
    room = room_of(path)
    allowed = {lower for lower in HEIGHT if HEIGHT[lower] < HEIGHT[room]} | {room}
    assert imported_rooms(path) <= allowed


def module_of(name: str) -> Path | None:
    """The file of a module of the package; None for what is in one, or of other packages."""
    path = ROOT / name.replace(".", "/")
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p in MODULES), None)


def reached(*start: Path, with_torch: bool = True) -> set[Path]:
    """Modules that some import, at once or when a function runs, and those that they import."""
    found, waiting = set(), list(start)
    while waiting:
        path = waiting.pop()
        if path in found or (not with_torch and "torch" in packages(path, deferred=False)):
            continue
        found.add(path)
        for name in imports(parse(path), path):
            parts = name.split(".")
            parents = (module_of(".".join(parts[:depth])) for depth in range(1, len(parts) + 1))
            waiting += [parent for parent in parents if parent is not None]
    return found


@pytest.mark.parametrize("module", ["model_file", "zoo", "enhancer", "export.graph"])
def test_what_loads_models_reaches_nothing_that_trains_or_scores_them(module):
    start = PACKAGE / f"{module.replace('.', '/')}.py"
    found = reached(start, *(PACKAGE / "networks").glob("*.py"))
    assert not {room_of(path) for path in found} & {*NOT_REACHED, "experiment"}
    assert {PACKAGE / "signal" / "stft.py", PACKAGE / "inference" / "nmf.py"} <= found


def test_inference_knows_only_torch_and_the_kernels():
    for path in MODULES:
        if room_of(path) == "inference":
            assert packages(path) <= {"torch", "deepnmf_cli"} | sys.stdlib_module_names
            assert imported_rooms(path) <= {"inference", "kernels"}


def test_networks_never_see_waveforms():
    for path in MODULES:
        if room_of(path) == "networks":
            assert not packages(path) & {"soundfile", "librosa", "torchaudio", "soxr"}
            assert not [name for name in imports(parse(path), path) if name.startswith("deepnmf_cli.signal.audio")]


def test_start_up_modules_import_nothing_heavy_at_module_level():
    for path in MODULES:
        if room_of(path) in {"commands", "main", "errors", "checkpoint", ""}:
            assert not packages(path, deferred=False) & HEAVY, path


@pytest.mark.parametrize("arguments", ["--help", "--version", *(f"{name} --help" for name in COMMANDS)])
def test_help_imports_nothing_heavy(arguments):
    program = (
        "import sys\n"
        "from deepnmf_cli.commands.group import main\n"
        f"main.main({arguments.split()!r}, prog_name='deepnmf', standalone_mode=False)\n"
        f"print('HEAVY', sorted(set(sys.modules) & {HEAVY!r}))\n"
    )
    # The parent of the package under test, be it a checkout or an installation.
    home = Path(deepnmf_cli.__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", program], cwd=home, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []"


@pytest.mark.parametrize("with_torch, most", [(False, LIGHT_REACH), (True, FULL_REACH)])
def test_enhance_reaches_few_modules(with_torch: bool, most: int) -> None:
    paths = reached(PACKAGE / "commands" / "enhance.py", with_torch=with_torch)
    assert len(paths) <= most, sorted(str(path.relative_to(PACKAGE)) for path in paths)
    assert not {room_of(path) for path in paths} & NOT_REACHED


def test_nothing_is_pickled():
    for path in MODULES:
        assert not packages(path) & {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}, path
        for name, call in calls(path):
            options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            assert options.get("allow_pickle", "False") == "False", path
            assert name not in {"torch.load", "torch.save"}, path


def test_the_library_never_prints_exits_or_draws_progress():
    for path in MODULES:
        if room_of(path) not in {"commands", "main"}:
            assert not {name for name, _ in calls(path)} & {"print", "exit", "quit", "sys.exit", "os._exit"}, path
            assert not packages(path) & {"tqdm", "click", "rich"}, path


def test_every_python_file_fits_on_a_few_screens():
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in text_files() if path.suffix == ".py"}
    assert not [path for path, length in lengths.items() if length > 500]


def text_files() -> Iterator[Path]:
    """Every file of the project that people write, wherever it lies."""
    written = {".py", ".md", ".toml", ".json", ".csv", ".svg", ".txt", ""}
    for top in (".ci", "data", "deepnmf_cli", "docs", "models", "tests"):
        for path in sorted((ROOT / top).rglob("*")):
            if path.is_file() and path.suffix in written and "__pycache__" not in path.parts:
                yield path
    names = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE", "pyproject.toml", ".gitignore")
    yield from (ROOT / name for name in names)


def test_no_file_mentions_one_machine():
    # Absolute paths, but for what every Linux has. A relative path, a URL or "$folder"/name in a script is none.
    path_on_a_machine = r"(?<![A-Za-z0-9./}])(?<!\w\")/(?!dev/|proc/|usr/)[A-Za-z0-9_-]+/"
    address_of_a_mirror = r"https?://[a-z.]*(registry|mirror)[a-z.]*"
    machine = re.compile(f"{path_on_a_machine}|{address_of_a_mirror}", re.MULTILINE)
    found = {path.relative_to(ROOT): machine.search(path.read_text("utf-8")) for path in text_files()}
    assert not {str(path): match[0] for path, match in found.items() if match}


def test_tests_and_package_stay_inside_the_checkout():
    outside = re.compile(r"\.\./shared")
    assert not [path for path in [*MODULES, *(ROOT / "tests").rglob("*.py")] if outside.search(path.read_text("utf-8"))]
