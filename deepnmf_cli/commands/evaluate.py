"""`deepnmf evaluate`: score enhanced recordings, or models, against clean references."""

import functools
import math
import os
import shlex
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deepnmf_cli import extras
from deepnmf_cli.commands import console
from deepnmf_cli.commands.options import (
    DEPTH,
    backend_option,
    device_option,
    json_option,
    logging_option,
    overwrite_option,
    quiet_option,
)
from deepnmf_cli.errors import DeepnmfError, UsageError, shortened
from deepnmf_cli.workers import available_cpus

if TYPE_CHECKING:
    from deepnmf_cli.scoring.ledger import Ledger
    from deepnmf_cli.scoring.mixtures import Mixture
    from deepnmf_cli.scoring.pairing import Pair
    from deepnmf_cli.scoring.report import System
    from deepnmf_cli.scoring.scorer import Enhance, ScoringPool

DEFAULT = "default"
"""The word that stands for the default model in --model, whose value cannot be left out."""

FILES_PER_JOB = 16
"""A scoring process takes seconds to start, in which it could have scored about this many files."""

TELLING = {"report_folder", "overwrite", "examples", "jobs", "as_json", "latex", "quiet", "verbose"}
"""Options on how to work and what to report; if any other option differs, a report is about something else."""


@click.command()
@click.option(
    "--reference", metavar="DIR", type=click.Path(),
    help="The clean recordings. Without them only --dnsmos and --asr-command give scores.",
)  # fmt: skip
@click.option(
    "--noisy", metavar="DIR", type=click.Path(),
    help="The noisy recordings. They are scored too, and are the input of --model.",
)  # fmt: skip
@click.option(
    "--estimate", "estimates", metavar="DIR", multiple=True, type=click.Path(),
    help="Enhanced recordings. Repeat to compare several.",
)  # fmt: skip
@click.option(
    "--model", "models", metavar="NAME|FILE", multiple=True,
    help="A model to enhance --noisy with: a name of `deepnmf models`, a .safetensors file, or the word default. "
    "Repeat to compare several.",
)  # fmt: skip
@click.option(
    "--depth", "depths", metavar="K", multiple=True, type=DEPTH, show_default="all layers",
    help="Stop each --model after its first K layers. Repeat to compare several depths.",
)  # fmt: skip
@click.option(
    "--mixtures", "--snr-csv", "table", metavar="FILE", type=click.Path(),
    show_default="mixtures.csv beside the references, or else their names, as in 003_+3dB_p232_street.wav",
    help="A CSV file that describes the recordings, with the column name and any of snr_db, speaker, noise, sex, "
    "language, noise_kind, room.",
)  # fmt: skip
@click.option(
    "--report", "report_folder", metavar="DIR", type=click.Path(),
    help="Also write files.csv, report.json, report.md, figures, and report.html, a page with plots and sounds.",
)  # fmt: skip
@overwrite_option
@click.option(
    "--examples", metavar="N", type=click.IntRange(min=0), default=4, show_default=True,
    help="Put the N files on which the first model, or else the first estimate, does worst and the N on which it does "
    "best into report.html, with the sound of every system. Each takes up to 1 MB per system.",
)  # fmt: skip
@click.option(
    "--dnsmos", is_flag=True,
    help="Also predict listeners' ratings of speech (SIG), background (BAK) and overall quality (OVRL): DNSMOS P.835. "
    "Takes half a second of CPU for each second of a recording beyond the ninth, and at least half a second.",
)  # fmt: skip
@click.option(
    "--composite", is_flag=True,
    help="Also compute segmental SNR (SSNR) and the composite scores CSIG, CBAK and COVL.",
)  # fmt: skip
@click.option(
    "--asr-command", metavar="COMMAND",
    help="Also compute the word error rate (WER) of a speech recogniser. The command is called for each recording, "
    "with a WAV file in place of {} or as its last argument, and must print the text. Needs --transcripts.",
)  # fmt: skip
@click.option(
    "--transcripts", metavar="FILE", type=click.Path(),
    help="A CSV file with the columns name and text: what is said in each recording.",
)  # fmt: skip
@click.option(
    "--rate", "rate_hz", metavar="HZ", type=click.IntRange(1000, 768_000),
    help="Resample all recordings to this rate first, for example --rate 16000 for VoiceBank+DEMAND.",
)  # fmt: skip
@click.option(
    "--jobs", metavar="N", type=click.IntRange(min=1),
    show_default=f"one per {FILES_PER_JOB} files, at most one per CPU", help="Number of scoring processes.",
)  # fmt: skip
@device_option
@backend_option
@json_option
@click.option("--latex", is_flag=True, help="Print the means and differences as a LaTeX table instead of text.")
@quiet_option
@logging_option
@click.pass_context
def command(
    context: click.Context,
    reference: str | None,
    noisy: str | None,
    estimates: tuple[str, ...],
    models: tuple[str, ...],
    depths: tuple[int, ...],
    table: str | None,
    report_folder: str | None,
    overwrite: bool,
    examples: int,
    dnsmos: bool,
    composite: bool,
    asr_command: str | None,
    transcripts: str | None,
    rate_hz: int | None,
    jobs: int | None,
    device: str,
    backend: str,
    as_json: bool,
    latex: bool,
    quiet: bool,
) -> None:
    """Score enhanced recordings, or models, against clean references.

    Recordings are paired by their paths below the folders; suffixes may differ. Each file is scored by SDR (BSS-eval
    v3, 512 taps), SI-SDR, PESQ (wide band; narrow band at 8 kHz), STOI and ESTOI. Each system, and each difference
    between two systems, gets a mean with its 95 % confidence interval, also by input SNR where that is known. Higher is
    better, except for WER.

    \b
    Examples:
      deepnmf evaluate --reference clean/ --estimate enhanced/
      deepnmf evaluate --estimate enhanced/
      deepnmf evaluate --reference clean/ --noisy noisy/ --model default --report report/

    With --report, scores are saved as they are computed: after an interruption the same command resumes. It also
    replaces its own report; any other command needs --overwrite for that.

    Exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted. One missing or unreadable file fails the whole run.
    """
    _check_usage(noisy, estimates, models, depths)
    _check_scores(reference, composite, asr_command, transcripts)
    if as_json and latex:
        raise UsageError("--latex", "--json too", "one of the two", "Leave the other out.")
    extras.require("evaluate", "deepnmf evaluate")
    model_files = _find_models(models)
    if report_folder:
        _refuse_another(context, Path(report_folder), overwrite)
        _make_folder(Path(report_folder))

    from deepnmf_cli.scoring import ledger, listening, pairing, report, scorer
    from deepnmf_cli.scoring.metrics import COMPOSITE, DNSMOS, METRICS, RECOGNITION

    folders = [noisy, *estimates] if noisy else list(estimates)
    pair_up = functools.partial(*((pairing.pair_folders, reference) if reference else (pairing.alone, folders[0])))
    paired = {folder: pair_up(folder) for folder in folders}
    names = [pair.name for pair in paired[folders[0]][0]]
    texts = _texts(asr_command, transcripts, names)
    by_folder = {folder: _prepared(pairs, rate_hz, asr_command, texts) for folder, (pairs, _) in paired.items()}
    pairs = by_folder[folders[0]]
    known, remarks = _known_mixtures(names, table, reference or folders[0])
    groups = (METRICS, reference), (COMPOSITE, composite), (DNSMOS, dnsmos or not reference), (RECOGNITION, asr_command)
    metrics = [name for group, wanted in groups if wanted for name in group]
    runners = [
        _model_runner(model, path, device, backend, depth)
        for model, path in model_files.items()
        for depth in depths or (None,)
    ]

    with (
        ledger.Ledger(report_folder, metrics, _command_line(context)) if report_folder else nullcontext() as kept,
        console.progress(hidden=as_json or quiet) as bar,
        scorer.ScoringPool(jobs or _jobs(len(names))) as pool,
    ):
        if not bar.disable:
            bar.reset(total=_seconds(pairs) * (len(folders) + len(runners)))
        models_shown = [_shown_name(model, path) for model, path in model_files.items()]
        systems = _score_folders(noisy, by_folder, pool, bar.update, kept, metrics, models_shown)
        sources = [listening.Source(by_folder[folder]) for folder in folders]
        for run in runners:
            system, enhance = run(pairs, pool, bar.update, kept, metrics)
            systems.append(system)
            sources.append(listening.Source(pairs, enhance))
    remarks += [f"{pairing.printable(folder)}: {_left_out(extra)}" for folder, (_, extra) in paired.items() if extra]
    remarks += _overall_wer(systems, texts)
    sha256 = pairing.corpus_hash(pair.first for pair in pairs)
    result = report.make_report(systems, known, sha256, _command_line(context), remarks)

    written = []
    if kept and report_folder:
        named = {system.name: source for system, source in zip(systems, sources, strict=True)}
        heard = listening.examples(listening.rank(result), examples, named)
        written = report.write_report(result, report_folder, heard)
        kept.remove()
    _show(result, as_json, latex)
    if kept and report_folder and not quiet:
        if kept.found:
            console.say(f"{console.count(kept.found, 'score')} of an earlier call did not have to be computed again.")
        console.say(f"Wrote {', '.join(path.name for path in written)} to {pairing.printable(report_folder)}.")


def _check_usage(
    noisy: str | None, estimates: tuple[str, ...], models: tuple[str, ...], depths: tuple[int, ...]
) -> None:
    if depths and not models:
        raise UsageError("--depth", "no --model", "a model that is stopped there", "Add --model NAME|FILE.")
    if repeated := [depth for depth, times in Counter(depths).items() if times > 1]:
        raise UsageError("--depth", f"{repeated[0]} twice", "each depth once", "Leave one of the two out.")
    if models and not noisy:
        expected = "--noisy DIR, the recordings that the model enhances"
        raise UsageError("--model", "no noisy recordings", expected, "Add --noisy DIR.")
    if not (noisy or estimates):
        expected = "--estimate DIR, or --noisy DIR with --model NAME|FILE"
        raise UsageError("deepnmf evaluate", "nothing to score", expected, "Add one of them.")
    given = Counter([noisy, *estimates, *models])
    if repeated := [name for name, times in given.items() if name and times > 1]:
        raise UsageError(repeated[0], "it twice", "each folder and each model once", "Leave one of the two out.")


def _check_scores(reference: str | None, composite: bool, asr_command: str | None, transcripts: str | None) -> None:
    if composite and not reference:
        expected = "--reference DIR, which these scores compare with"
        raise UsageError("--composite", "no references", expected, "Add --reference DIR.")
    if (asr_command is None) != (transcripts is None):
        given, missing = (
            ("--transcripts", "--asr-command") if asr_command is None else ("--asr-command", "--transcripts")
        )
        raise UsageError(given, f"no {missing}", "both, for the word error rate", f"Add {missing}.")


def _texts(asr_command: str | None, transcripts: str | None, names: list[str]) -> dict[str, str]:
    """Return what is said in each recording; empty if that is not asked for."""
    if asr_command is None or transcripts is None:
        return {}
    from deepnmf_cli.scoring import words

    words.arguments_of(asr_command)
    return words.read_transcripts(transcripts, names)


def _prepared(pairs: "list[Pair]", rate_hz: int | None, asr_command: str | None, texts: dict[str, str]) -> "list[Pair]":
    """Return the pairs with the rate at which they are compared, and what is said in them."""
    from deepnmf_cli.scoring.words import Speech

    speech = {name: Speech(text, asr_command) for name, text in texts.items() if asr_command}
    return [replace(pair, rate_hz=rate_hz, speech=speech.get(pair.name)) for pair in pairs]


def _overall_wer(systems: "list[System]", texts: dict[str, str]) -> list[str]:
    """Return the word error rates over the whole corpus, as the means in the tables give all files equal weight."""
    from deepnmf_cli.scoring import words

    rates = {
        system.name: {s.name: s.values[words.NAME] for s in system.scores if not math.isnan(s.values[words.NAME])}
        for system in systems
        if texts
    }
    said = [
        f"{name} {rate:.1f} %" for name, by_file in rates.items() if (rate := words.overall(texts, by_file)) is not None
    ]
    return [f"{words.NAME} over all words: {', '.join(said)}"] if said else []


def _find_models(models: tuple[str, ...]) -> dict[str, Path]:
    """Return model, as named -> its file; called first, so that a wrong name fails before any work.

    Raises ModelError for a model that does not exist, and UsageError for one that is named twice.
    """
    if not models:
        return {}
    from deepnmf_cli import zoo

    files = {model: zoo.find(None if model == DEFAULT else model) for model in models}
    named: dict[Path, str] = {}
    for model, path in files.items():
        if (first := named.setdefault(path.resolve(), model)) != model:
            raise UsageError(model, f"the same model as {first}", "each model once", "Leave one of the two out.")
    return files


def _refuse_another(context: click.Context, folder: Path, overwrite: bool) -> None:
    """Raise UsageError if a report would replace files that are no report of this command, finished or not."""
    from deepnmf_cli.scoring import ledger, report

    existing = [path for name in report.FILES if os.path.lexists(path := folder / name)]
    if overwrite or not existing:
        return
    earlier, asked = report.command_of(folder), _deciding(context, _command_line(context))
    for command in (earlier, ledger.command_of(folder)):
        if command is not None and _deciding(context, command) == asked:
            return
    found = "an existing file" if earlier is None else f"the report of another command ({shortened(earlier)})"
    remedy = "Pass --overwrite to replace it, or choose another folder."
    raise UsageError(existing[0], found, "a new name, or an earlier report of this command", remedy)


def _deciding(context: click.Context, line: str) -> dict[str, Any] | None:
    """Return the options of a command line on which its scores depend; None for one that cannot be parsed."""
    try:
        given, _, _ = context.command.make_parser(context).parse_args(shlex.split(line)[2:])
    except (ValueError, click.UsageError):  # of another version, or no command line at all
        return None
    return {name: value for name, value in given.items() if name not in TELLING}


def _make_folder(folder: Path) -> None:
    """Create the folder of the report before the work begins. Raises DeepnmfError if it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(13, "permission denied")
    except OSError as error:
        found = f"that it cannot be written ({error.strerror})"
        raise DeepnmfError(folder, found, "a folder for the report", "Choose another folder.") from error


def _known_mixtures(names: list[str], table: str | None, reference: str) -> "tuple[dict[str, Mixture], list[str]]":
    """Return what is known of the recordings, and remarks on columns of the table that are not used, or on a table
    beside the references that cannot be used.
    """
    from deepnmf_cli.errors import CorpusError
    from deepnmf_cli.scoring.mixtures import known_mixtures, remarks_on, table_of

    if table:
        return known_mixtures(names, table), remarks_on(table)
    if not (beside := table_of(reference)):
        return known_mixtures(names), []
    try:
        return known_mixtures(names, beside), remarks_on(beside)
    except CorpusError as error:
        return known_mixtures(names), [f"{beside.name} beside the references is not used: {error.found}"]


def _score_folders(
    noisy: str | None,
    paired: "dict[str, list[Pair]]",
    pool: "ScoringPool",
    progress: Callable[[float], object],
    kept: "Ledger | None",
    metrics: list[str],
    taken: list[str],
) -> "list[System]":
    from deepnmf_cli.scoring.listening import REFERENCE
    from deepnmf_cli.scoring.pairing import printable
    from deepnmf_cli.scoring.report import ESTIMATE, NOISY, System
    from deepnmf_cli.scoring.scorer import score_files

    reserved = (NOISY, REFERENCE) if noisy else (REFERENCE,)
    last_parts = Counter(Path(folder).absolute().name for folder in paired)
    last_parts.update(taken)  # a folder that is called as something else in the table is called by its path
    systems = []
    for folder, pairs in paired.items():
        name = Path(folder).absolute().name
        if folder == noisy:
            name, kind = NOISY, NOISY
        else:
            name, kind = (name if last_parts[name] == 1 and name not in reserved else folder), ESTIMATE
            if name in reserved:
                name = os.path.join(os.curdir, name)
        scores = score_files(pairs, pool, progress, kept and kept.of("files", *metrics), metrics)
        systems.append(System(printable(name), kind, printable(folder), scores))
    return systems


def _shown_name(model: str, path: Path) -> str:
    """Return what a model is called in tables, without its depth."""
    from deepnmf_cli import zoo

    return zoo.called(path) if model == DEFAULT else model


def _model_runner(
    model: str, path: Path, device: str, backend: str, depth: int | None
) -> "Callable[[list[Pair], ScoringPool, Callable[[float], object], Ledger | None, list[str]], tuple[System, Enhance]]":
    """Load a model now, so that a damaged file fails before any work; return a function that scores it later, and also
    returns what it enhances with.
    """
    from deepnmf_cli import zoo
    from deepnmf_cli.checkpoint import file_hash
    from deepnmf_cli.scoring.pairing import printable
    from deepnmf_cli.scoring.report import MODEL, System
    from deepnmf_cli.scoring.scorer import score_enhanced

    enhancer, info = zoo.load_described(path, device, backend, depth)
    facts = {"parameters": info.parameters, "macs_per_s": info.macs_per_s, "sha256": file_hash(path)}
    name = _shown_name(model, path)
    stopped = () if depth is None else (f"depth {depth}",)
    name = ", ".join((name, *stopped))

    def run(
        pairs: "list[Pair]",
        pool: "ScoringPool",
        progress: Callable[[float], object],
        kept: "Ledger | None",
        metrics: list[str],
    ) -> "tuple[System, Enhance]":
        finished = kept and kept.of("model", facts["sha256"], device, backend, *stopped, *metrics)
        scores = score_enhanced(pairs, enhancer.enhance, pool, progress, finished, metrics)
        return System(printable(name), MODEL, printable(model), scores, facts), enhancer.enhance

    return run


def _jobs(files: int) -> int:
    return max(1, min(available_cpus(), files // FILES_PER_JOB))


def _seconds(pairs: "list[Pair]") -> float:
    from deepnmf_cli.signal import audio

    return sum(audio.info(pair.first).seconds for pair in pairs)


def _left_out(names: list[str]) -> str:
    return f"{console.count(len(names), 'file')} without a reference left out, the first being {names[0]}"


def _command_line(context: click.Context) -> str:
    """Return the command as typed, without the options that were left at their defaults."""
    from deepnmf_cli.scoring.pairing import printable

    words = ["deepnmf", context.info_name or ""]
    for option in context.command.params:
        value = context.params.get(option.name)
        if value == option.get_default(context) or value is None or value is False or value == ():
            continue
        for one in value if isinstance(value, tuple) else (value,):
            words += [option.opts[0]] if one is True else [option.opts[0], str(one)]
    return printable(shlex.join(words))


def _show(result: dict[str, Any], as_json: bool, latex: bool) -> None:
    from deepnmf_cli.scoring import tables

    if as_json:
        console.echo_json(result)
        return
    if latex:
        click.echo(tables.latex(result))
        return
    click.echo(console.table(*tables.overall_table(result)))
    for table in (tables.snr_table(result), *tables.group_tables(result).values()):
        if table[1]:
            click.echo("\n" + console.table(*table))
    click.echo(f"\n{tables.caption(result)}")
    for remark in result["remarks"]:
        click.echo(f"Note: {remark}.")
