"""`deepnmf train`."""

import re
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, Self

import click

from deepnmf_cli import extras
from deepnmf_cli.commands import console
from deepnmf_cli.commands.options import NumberRange, device_option, logging_option, refuse_endless
from deepnmf_cli.errors import EXIT_DONE, EXIT_TERMINATED, CorpusError, DeepnmfError, UsageError
from deepnmf_cli.signals import ending, handled

FOLDER = click.Path(path_type=Path)
DEFAULT_RECIPE = "base"


@click.command()
@click.argument("recipe", required=False, type=click.Path(path_type=Path))
@click.option("--speech", type=FOLDER, help="Folder of clean speech, preferably with one subfolder per speaker.")
@click.option("--noise", type=FOLDER, help="Folder of noise recordings.")
@click.option("--general-noise", type=FOLDER, help="For fine-tuning: folder of noises other than your own.")
@click.option("--rir", type=FOLDER, help="Folder of room impulse responses.")
@click.option(
    "--manifest", type=FOLDER, help="CSV with the columns path, role (speech, noise, rir), speaker, split (train, dev)."
)
@click.option(
    "--pairs", type=FOLDER, help="Ready mixtures: a folder with clean/ and noisy/ files of equal names, or CHiME-2."
)
@click.option(
    "--dev", type=FOLDER, help="Folder with clean/ and noisy/ to score on.  [default: part of the material, held out]"
)
@click.option(
    "--pack", type=FOLDER, help="Folder that `deepnmf pack` wrote, with its own dev pairs, instead of recordings."
)
@click.option("-o", "--output", type=FOLDER, required=True, help="Folder of the run.")
@click.option("--model", metavar="NAME", help="Network to train, such as grid or deep-nmf.  [default: the recipe's]")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting, e.g. training.steps=500."
)
@click.option(
    "--init", help="Model, by name or file, whose weights training starts from; without RECIPE also its recipe."
)
@click.option("--partial", is_flag=True, help="With --init: take only the weights that fit.")
@click.option(
    "--minutes", metavar="N", type=NumberRange(0, min_open=True), callback=refuse_endless,
    help="Stop after this time, with a dev score and a resume point; save every minute.  [default: the last step]",
)  # fmt: skip
@click.option("--resume", is_flag=True, help="Continue the run in the output folder.")
@click.option("--cache", type=FOLDER, help="Folder for dictionaries and frames, shared by runs on the same corpus.")
@click.option(
    "--workers",
    metavar="N",
    default=1,
    show_default=True,
    type=click.IntRange(1),
    help="Processes that prepare mixtures, at most one per CPU. With 1, a thread does it.",
)
@click.option(
    "--tensorboard", is_flag=True,
    help="Write scores for TensorBoard, with spectrograms and sound of three dev recordings at each dev score.",
)  # fmt: skip
@click.option(
    "--threads", metavar="N", type=click.IntRange(1), help="Threads for matrix products.  [default: all cores]"
)
@device_option
@logging_option
def command(
    recipe: Path | None,
    speech: Path | None,
    noise: Path | None,
    general_noise: Path | None,
    rir: Path | None,
    manifest: Path | None,
    pairs: Path | None,
    dev: Path | None,
    pack: Path | None,
    output: Path,
    model: str | None,
    overrides: tuple[str, ...],
    init: str | None,
    partial: bool,
    minutes: float | None,
    resume: bool,
    cache: Path | None,
    workers: int,
    tensorboard: bool,
    threads: int | None,
    device: str,
) -> int:
    """Train a model on folders of speech and noise.

    RECIPE is a TOML file or the name of a recipe that ships, such as base, deep-nmf, dnn or belief-propagation. The
    default is the recipe of --model, or else of --init, or else base. A recipe without a model, such as fine-tune,
    takes whatever it does not set from the model of --init. The recipes fill-gaps and declip train models for `deepnmf
    repair` and need only --speech.

    Mixtures are made on the fly. The run folder receives recipe.json, history.csv, curves.png, best.safetensors (the
    model for `deepnmf enhance --model`) and a resume point. Ctrl-C stops after the current step and saves the weights
    as last.safetensors; --resume continues exactly where training stopped, on another machine too.

    Exit code: 0 done, 1 failed, 2 wrong usage, 4 done, but the best model scores lower than the one training started
    from, 130 stopped by Ctrl-C, 143 by SIGTERM.

    \b
    Examples:
      deepnmf train --speech speech/ --noise noise/ -o run/
      deepnmf train --speech speech/ --noise noise/ -o run/ --resume
      deepnmf train --pairs pairs/ -o paired/ --model dnn --set training.steps=500
      deepnmf train --pack pack/ --minutes 8 -o leg/
      deepnmf train fine-tune --init base --speech speech/ --noise noise/ -o tuned/
    """
    began = time.monotonic()
    if recipe is not None and (found := _recipe_of_repair(recipe)) is not None:
        given = {"--noise": noise, "--rir": rir, "--manifest": manifest, "--pairs": pairs, "--dev": dev, "--pack": pack}
        given |= {"--model": model, "--init": init, "--general-noise": general_noise, "--partial": partial}
        given |= {"--minutes": minutes, "--cache": cache, "--tensorboard": tensorboard}
        given |= {"--workers": workers > 1, "--device": device not in ("auto", "cpu")}
        return _train_repair(found, speech, output, overrides, resume, threads, [n for n, v in given.items() if v])
    _require_one_source(speech, noise, manifest, pairs, pack)
    extras.require("train", "deepnmf train", ("torch",))
    if tensorboard:
        extras.require("tensorboard", "--tensorboard")
    if partial and init is None:
        raise UsageError("--partial", "no --init", "a model whose weights may be taken in part", "Name one.")
    if rir and not speech:
        remedy = "List them in the manifest with the role rir, or leave them out."
        raise UsageError("--rir", "no --speech", "room responses beside folders of speech and noise", remedy)
    import torch

    from deepnmf_cli import model_file
    from deepnmf_cli.corpus.pack import verify
    from deepnmf_cli.experiment import Recordings, train
    from deepnmf_cli.recipe import Recipe, read_recipe, recipes_folder
    from deepnmf_cli.training.processes import joined
    from deepnmf_cli.training.time_limit import TimeLimit
    from deepnmf_cli.workers import available_cpus
    from deepnmf_cli.zoo import find, resolve_device

    processes, device = click.get_current_context().with_resource(joined(resolve_device(device)))
    tells = processes.rank == 0
    if pack:
        manifest = verify(pack)
        dev = dev or (pack / "dev" if (pack / "dev").is_dir() else None)
    if workers > (cpus := available_cpus()):
        if tells:
            console.warn(f"--workers {workers}: found {console.count(cpus, 'CPU')}, and as many are used.")
        workers = cpus
    if tells:
        _remark(speech, noise, rir, pairs, dev, manifest)
    if threads:
        torch.set_num_threads(threads)
    begins = None if init is None else lambda: Recipe.of_file(model_file.read(find(init)))
    chosen: str | Path | None = recipe
    if recipe is None and model is None and init is None:
        chosen = DEFAULT_RECIPE
    elif recipe is None and model is not None and (recipes_folder() / f"{model}.toml").is_file():
        chosen = model
    settings = read_recipe(chosen, model, overrides, begins)
    recordings = Recordings(speech, noise, rir, dev, manifest, pairs, general_noise)
    with _Stopping(tells) as stopping, _Progress(settings.training.steps) as show:
        worse, over = None, False

        def progress(report: dict) -> None:
            nonlocal worse, over
            stopping.began = stopping.began or "began" in report
            worse, over = report.get("worse", worse), report.get("over", over)
            if tells:
                show(report)

        try:
            complete = train(
                settings,
                recordings,
                output,
                resume,
                device,
                workers,
                progress,
                stopping,
                cache,
                find(init) if init else None,
                partial,
                None if minutes is None else TimeLimit(60 * minutes, began),
                unpack=pack is not None and workers > 1,
                tensorboard=tensorboard,
                processes=processes,
            )
        except DeepnmfError as error:
            # What is wrong with the call or the material is found by every process, and told by the first of each
            # machine; what happens later may happen to one of them.
            if stopping.began or processes.first_of_machine:
                raise
            return error.exit_code
    code = stopping.exit_code
    if not complete and not stopping() and not over:
        code = EXIT_TERMINATED
        if tells:
            console.say("Another process was stopped.")
    if not tells:
        return code
    if over:
        console.say(f"{minutes:g} min are over.")
    if not complete:
        last = output / "last.safetensors"
        present = f"Present weights: {last}. " if last.is_file() else ""  # they are complete while a share is chosen
        click.echo(f"{present}Continue with --resume.", err=True)
        return code
    if worse is not None:
        raise worse
    console.announce(f"Best model: {output / 'best.safetensors'}")
    return EXIT_DONE


def _recipe_of_repair(recipe: Path) -> Path | None:
    """Return the file of a repair recipe, shipped or the user's own, which has a section [repair]; None for others."""
    from deepnmf_cli.recipe import recipes_folder

    for file in (recipe, recipes_folder() / f"{recipe}.toml"):
        with suppress(OSError, UnicodeDecodeError):
            if file.is_file():
                return file if re.search(r"^\s*\[repair\]", file.read_text(encoding="utf-8"), re.MULTILINE) else None
    return None


def _train_repair(
    recipe: Path, speech: Path | None, output: Path, overrides: tuple[str, ...], resume: bool, threads: int | None,
    refused: list[str],
) -> int:  # fmt: skip
    extras.require("train", "deepnmf train", ("torch",))
    if speech is None or refused:
        found = f"{', '.join(refused)} beside it" if refused else "no --speech"
        raise UsageError(recipe.stem, found, "--speech alone, as damage is made on the fly", "Correct it.")
    import torch

    from deepnmf_cli.training.repair import read_recipe, train

    if threads:
        torch.set_num_threads(threads)
    settings = read_recipe(recipe, overrides)
    with _Stopping() as stopping, _Progress(settings.training.steps) as show:
        stopping.began = True
        complete = train(settings, speech, output, resume, show, stopping)
    if not complete:
        click.echo("Continue with --resume.", err=True)
        return stopping.exit_code
    console.announce(f"Best model: {output / 'best.safetensors'}")
    return EXIT_DONE


class _Stopping:
    """A context manager that says whether Ctrl-C or SIGTERM has arrived since training began.

    Training then ends at once if it is waiting, or else after its step. Before it has begun, when there is nothing to
    keep, and the second time, a signal does what it did before the context.
    """

    def __init__(self, tells: bool = True) -> None:
        """With `tells`, print what a signal does."""
        self.began, self.exit_code, self._tells, self._handling = False, EXIT_DONE, tells, handled(self._handle)

    def __enter__(self) -> Self:
        self._before = self._handling.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._handling.__exit__(*exception)

    def __call__(self) -> bool:
        return self.exit_code != EXIT_DONE

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self() or not self.began:
            handler = self._before[number]
            if callable(handler):
                handler(number, frame)
            raise KeyboardInterrupt
        self.exit_code = ending(number)[1]
        if not self._tells:
            return
        with suppress(RuntimeError, OSError):  # in the middle of another message, or without standard error
            click.echo("\nStopping after this step. A run that has begun continues with --resume.", err=True)


class _Progress:
    """Shows what `train` reports: first the dictionaries of NMF models, then steps with loss and best dev score."""

    def __init__(self, steps: int) -> None:
        from tqdm import tqdm

        self._steps, self._shown, self._begun = steps, "", False
        self._bar: tqdm | console.Lines
        if sys.stderr.isatty():
            self._bar = tqdm(total=steps, unit="step", file=sys.stderr, dynamic_ncols=True)
        else:
            self._bar = console.Lines(self._line, total=steps)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()

    def __call__(self, report: dict) -> None:
        if "found" in report:
            console.say(report["found"])
        elif "note" in report:
            console.warn(report["note"])
        elif "began" in report:
            for name, score in report["began"].items():
                console.say(f"{name}: dev score {score:.2f} dB")
        elif "dictionary" in report:
            self._bar.set_description_str(f"{report['dictionary']} dictionary, batch {report['step']} ")
            self._bar.update(0)
        elif "step" in report:
            self._step(report)

    def _step(self, report: dict) -> None:
        best = "" if report["best"] is None else f"best dev score {report['best']:.2f} dB"
        self._shown = ", ".join(filter(None, (_loss(report), best)))
        if isinstance(self._bar, console.Lines):
            if not self._begun:  # it is not known how long this one took
                self._bar.start(report["step"])
            self._bar.set_description_str("")
        else:
            self._bar.set_description_str("training ")
            self._bar.set_postfix_str(self._shown, refresh=False)
        self._begun = True
        self._bar.update(report["step"] - self._bar.n)
        if (row := report["row"]) and isinstance(self._bar, console.Lines):
            score = ", ".join(filter(None, (_loss(row), f"dev score {row['dev_score']:.2f} dB")))
            console.say(f"step {row['step']}: {score}{self._bar.left()}")

    def _line(self, done: float, total: float | None, per_s: float) -> str:
        if not self._begun:
            return ""
        share, left = f" ({100 * done / self._steps:.0f} %)", console.time_left(done, total, per_s)
        return f"step {done:.0f}/{self._steps}{share}: {self._shown}, {per_s:.2f} steps/s{left}"


def _loss(report: dict) -> str:
    """Return the loss in words; empty before the first step, when it is not known."""
    return "" if report["loss"] is None else f"loss {report['loss']:.4f}"


def _remark(*sources: Path | None) -> None:
    """Warn of what training will not use in the sources of its recordings."""
    from deepnmf_cli.corpus.manifest import remarks_on

    for source in filter(None, sources):
        with suppress(CorpusError):  # reported when the manifest is read
            for remark in remarks_on(source):
                console.warn(remark)


def _require_one_source(
    speech: Path | None, noise: Path | None, manifest: Path | None, pairs: Path | None, pack: Path | None
) -> None:
    ways = [bool(speech or noise), bool(manifest), bool(pairs), bool(pack)]
    if sum(ways) != 1 or bool(speech) != bool(noise):
        raise UsageError(
            "deepnmf train",
            "no complete source of recordings" if sum(ways) <= 1 else "more than one source of recordings",
            "--speech with --noise, or --manifest, or --pairs, or --pack",
            "See `deepnmf train --help`.",
        )
