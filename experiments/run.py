"""Run experiments: `python -m experiments.run +paper=cacheblend`.

Hydra composes the settings; everything about them is checked before anything runs. Each (experiment, seed) is one run in the
results store; finished ones are skipped, interrupted ones resumed.

Exit codes: 0 all done; 1 a run failed; 2 a setting was refused; 130 interrupted.
"""

import dataclasses
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig

from common.errors import ConfigError, ReproError
from common.experiment import Run
from common.results import ItemRows, RunWriter
from experiments import schema
from experiments.console import Progress, say

LAUNCHERS = ("submitit", "joblib", "ray")
"""Packages whose exceptions speak of a worker process rather than of our code."""


class RunFailed(ReproError):
    """At least one run of a command failed; each has said why."""


def execute(job: schema.Job, config: schema.RunConfig, progress: Progress) -> str:
    """Do one run, or find it done.

    Returns:
        "done", "resumed" or "skipped".

    Raises:
        Whatever the experiment raises, after it was recorded in run.json.
    """
    # Imported here: looking up the machine and the sources takes time that `--help` and a typo need not wait for.
    from experiments.provenance import provenance

    paper = schema.load_paper(config.paper)
    identity = job.identity
    facts = provenance(paper, sorted(job.methods), config.threads)
    with RunWriter(
        Path(config.results_dir),
        identity,
        facts,
        force=config.force,
        on_wait=lambda: say(f"{identity.run_id}: another process is at it; waiting for it to end"),
    ) as writer:
        if writer.is_complete:
            record = writer.read_record()
            changed = record.get("source_sha256") != facts["source_sha256"]
            say(
                f"{identity.run_id}: already complete ({record['num_items']} items, {record['finished_at']})"
                + ("; the code has changed since, force=true runs it again" if changed else "")
            )
            return "skipped"
        resumed = len(writer.finished_items)
        say(f"{identity.run_id}: " + (f"resuming after {resumed} finished items" if resumed else "starting"))
        _measure(job, config, writer, progress)
        return "resumed" if resumed else "done"


def _measure(job: schema.Job, config: schema.RunConfig, writer: RunWriter, progress: Progress) -> None:
    identity = job.identity
    start_s = time.monotonic()
    run = Run(
        paper=identity.paper,
        experiment=identity.experiment,
        scale=identity.scale,
        seed=identity.seed,
        num_items=job.settings["num_items"],
        methods=job.methods,
        workload=job.workload,
        workload_name=job.settings["workload"] or "",
        model=job.settings["model"],
        data=dict(job.settings["data"]) | {"root": config.data.root},
        cache_dir=Path(config.results_dir) / ".cache",
        finished=writer.finished_items,
        progress=lambda total: progress.start(identity.run_id, total, len(writer.finished_items)),
    )
    try:
        for item_rows in job.experiment.rows(run):
            if not isinstance(item_rows, ItemRows):
                raise TypeError(
                    f"experiment {identity.experiment!r} yielded a {type(item_rows).__name__}, not ItemRows"
                )
            writer.commit(item_rows)
            progress.advance(item_rows.item)
        writer.complete(time.monotonic() - start_s, run.inputs)
        progress.finish()
    except KeyboardInterrupt:
        progress.finish()
        say(
            f"{identity.run_id}: interrupted; {len(writer.finished_items)} finished items are kept, the same command resumes"
        )
        raise
    except Exception as error:
        progress.finish()
        writer.fail(error, time.monotonic() - start_s)
        raise


def run_config(config: DictConfig) -> None:
    """Check a composed config and do its runs; the task function of one Hydra job.

    Raises:
        ConfigError: a setting was refused; nothing has run.
        RunFailed: some runs failed, the others were done.
    """
    given = frozenset(override.lstrip("+~").partition("=")[0] for override in HydraConfig.get().overrides.task)
    checked = schema.check(config)
    # Set before torch is imported: it reads this once. Restricting threads later leaves its pools as they are.
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(checked.threads)
    jobs = schema.plan_jobs(checked, given)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(checked.threads)
    failures: list[str] = []
    with Progress() as progress:
        for job in jobs:
            try:
                execute(job, checked, progress)
            except ConfigError:
                raise
            except Exception as error:
                failures.append(job.identity.run_id)
                say(f"{job.identity.run_id}: FAILED: {type(error).__name__}: {error}", is_error=True)
                if not isinstance(error, ReproError):
                    progress.print_traceback()
    if checked.draw:
        from experiments.report import report

        ran = list(dict.fromkeys(job.identity.experiment for job in jobs))
        report(checked.paper, Path(checked.results_dir), Path(checked.figures_dir), checked.scale, ran)
    if failures:
        raise RunFailed(
            f"{len(failures)} of {len(jobs)} runs failed: {', '.join(failures)}. Their run.json holds the error."
        )


@dataclasses.dataclass
class _Outcome:
    """What the jobs of this process came to; the worst of them decides the exit code."""

    exit_code: int = 0


_outcome = _Outcome()


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def _hydra_task(config: DictConfig) -> None:
    launcher = str(HydraConfig.get().runtime.choices["hydra/launcher"])
    try:
        run_config(config)
    except ReproError as error:
        if launcher != "basic":  # in a process of its own; only an exception reaches the one that the user started
            raise
        # Raised to Hydra, this would come out with a line of its own around it, and after a multirun only the first would.
        say(f"{type(error).__name__}: {error}", is_error=True)
        _outcome.exit_code = max(_outcome.exit_code, 2 if isinstance(error, ConfigError) else 1)


def lost_worker(error: BaseException) -> str:
    """One line for a job of a sweep that ended without an answer: its process was killed, or it failed on another machine."""
    # The launchers put a worker's whole log, or its traceback, into the message; its last line is the reason.
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" -=")]
    reason = next(
        (line for line in reversed(lines) if re.match(r"[\w.]*(Error|Failed|Unavailable|Name)\b", line)),
        lines[0] if lines else "",
    )
    return (
        f"a job of the sweep failed or was killed ({type(error).__name__}: {reason}). Finished items of all jobs are kept; "
        "the same command does what is missing."
    )


def explain(error: BaseException, overrides: Sequence[str]) -> str:
    """One line for what Hydra or OmegaConf says in several."""
    text = str(error)
    if found := re.search(r"Could not find '(\w+)/([^']*)'", text):
        group, option = found.groups()
        options = re.findall(r"^\t(\S+)$", text, flags=re.MULTILINE)
        known = options or (list(schema.paper_names()) if group == "paper" else [])
        if group == "scale":
            return f"scale={option!r} is not a scale. Choose one of {', '.join(schema.SCALES)}."
        return schema.unknown(group, option, known)
    if found := re.search(r"Could not override '([^']+)'", text):
        return schema.unknown_setting(found.group(1))
    if found := re.search(r"Key '([^']+)' is not in struct", text):
        return schema.unknown_setting(found.group(1))
    for override in overrides:
        try:
            OverridesParser.create().parse_override(override)
        except HydraException:
            return (
                f"cannot read {override!r}: check its brackets and quotes; a value with spaces needs quotes of its own."
            )
    return re.sub(r"\s*\n\s*", " ", text).strip()


def as_hydra_wants(arguments: Sequence[str]) -> list[str]:
    """The arguments with the plus signs that Hydra wants before new keys; nobody should have to know which those are."""
    fields = [
        f"{group}.{field.name}="
        for group, kind in (("model", schema.ModelConfig), ("data", schema.DataConfig))
        for field in dataclasses.fields(kind)
    ]
    # A model's or a source's file leaves fields at their defaults, and knobs stand in no file.
    open_ended = ("method_args.", "workload_args.", "experiment_args.", *fields)
    # `paper` is a group without a default, which is appended.
    prefixed = [f"+{argument}" if argument.startswith("paper=") else argument for argument in arguments]
    return [f"++{argument}" if argument.startswith(open_ended) else argument for argument in prefixed]


def main() -> int:
    """Entry point; returns the exit code."""
    # Hydra would print its own many-line report and always exit with 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    arguments = sys.argv[1:]
    arguments = as_hydra_wants(arguments)
    sys.argv[1:] = arguments
    sys.path.insert(0, os.getcwd())  # plug-ins lie in the folder one works in
    asks_hydra = any(argument.startswith("-") and argument not in ("-m", "--multirun") for argument in arguments)
    unreadable = [
        text for text in arguments if not text.startswith(("-", "~")) and not re.match(r"\+{0,2}[\w@/.:-]+=", text)
    ]
    try:
        if unreadable and not asks_hydra:
            raise ConfigError(
                f"cannot read {unreadable[0]!r} as a setting; write name=value, and quote spaces and brackets for the shell."
            )
        if not asks_hydra and not any(argument.startswith("+paper=") for argument in arguments):
            from experiments.list import print_overview

            print_overview(sys.stderr)
            say("no paper was chosen: add +paper=NAME", is_error=True)
            return 2
        _hydra_task()
    except KeyboardInterrupt:
        return 130
    except ReproError as error:
        say(f"{type(error).__name__}: {error}", is_error=True)
        return 2 if isinstance(error, ConfigError) else 1
    except Exception as error:
        origin = type(error).__module__.partition(".")[0]
        # A run's own errors are recorded and told there; what is left is a folder that cannot be made or written.
        if isinstance(error, OSError) and origin == "builtins" and error.filename:
            say(
                f"ConfigError: {error.filename} cannot be written: {error.strerror}; "
                "choose another results_dir= or figures_dir=.",
                is_error=True,
            )
            return 2
        if origin in LAUNCHERS:
            say(lost_worker(error), is_error=True)
            return 1
        # Hydra's parsers also raise types of their own; whatever comes from elsewhere is a bug and keeps its traceback.
        if origin not in ("hydra", "omegaconf", "antlr4"):
            raise
        say(f"ConfigError: {explain(error, arguments)}", is_error=True)
        return 2
    return _outcome.exit_code


if __name__ == "__main__":
    sys.exit(main())
