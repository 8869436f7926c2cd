"""The settings of a run, checked strictly, and resolved to one identity per (experiment, seed)."""

import dataclasses
import difflib
import functools
import importlib
import importlib.resources
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from common.errors import ConfigError, UnknownName
from common.experiment import Paper
from common.registry import Registry
from common.results import VOLATILE_SETTINGS, RunIdentity

SCALES = ("smoke", "cpu", "gpu")


@dataclasses.dataclass
class SizeConfig:
    """How much of an experiment one scale runs. Knobs here come on top of the plan's."""

    num_items: int | None = None
    num_seeds: int | None = None
    args: dict[str, Any] = dataclasses.field(default_factory=dict)
    workload_args: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class PlanConfig:
    """What one experiment runs with unless the command line says otherwise."""

    methods: list[str] = dataclasses.field(default_factory=list)
    method_args: dict[str, Any] = dataclasses.field(default_factory=dict)
    workload: str | None = None
    workload_args: dict[str, Any] = dataclasses.field(default_factory=dict)
    args: dict[str, Any] = dataclasses.field(default_factory=dict)
    model: dict[str, Any] | None = None
    sizes: dict[str, SizeConfig] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class ModelConfig:
    """The `model` config group; which values mean what is the loader's business (`common.models`)."""

    name: str = "none"
    source: str = "none"
    path: str | None = None
    revision: str | None = None
    dtype: str = "float32"
    device: str = "auto"
    attention: str = "sdpa"


@dataclasses.dataclass
class DataConfig:
    """The `data` config group; read by `common.data`."""

    name: str = "bundled"
    source: str = "generated"
    root: str | None = None
    dataset: str | None = None
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class RunConfig:
    """Every setting there is. Defaults stand in conf/config.yaml, with a comment each."""

    paper: str
    scale: str
    plan: dict[str, PlanConfig]
    experiment: Any
    methods: list[str] | None
    method_args: dict[str, dict[str, Any]]
    workload: str | None
    workload_args: dict[str, Any]
    experiment_args: dict[str, dict[str, Any]]
    num_items: int | None
    num_seeds: int | None
    seed: int | None
    threads: int
    plugins: list[str]
    results_dir: str
    figures_dir: str
    force: bool
    draw: bool
    sizes: dict[str, SizeConfig] = dataclasses.field(default_factory=dict)
    default_experiments: list[str] = dataclasses.field(default_factory=list)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)


@functools.cache
def paper_names() -> tuple[str, ...]:
    """Papers that can be run: those with a file in conf/paper, sorted."""
    folder = importlib.resources.files("experiments") / "conf" / "paper"
    return tuple(sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")))


def paper_config(name: str) -> dict[str, Any]:
    """The parsed conf/paper file of a paper, as plain data."""
    text = (importlib.resources.files("experiments") / "conf" / "paper" / f"{name}.yaml").read_text()
    return dict(yaml.safe_load(text))


def load_paper(name: str) -> Paper:
    """The `PAPER` of a package's api module: one of ours, or an importable package of the user's own.

    Raises:
        UnknownName: there is no such paper.
    """
    try:
        module = importlib.import_module(f"{name}.api")
        paper: Paper = module.PAPER
    except (ModuleNotFoundError, AttributeError) as error:
        is_absent = isinstance(error, AttributeError) or error.name in (name, f"{name}.api")
        if name in paper_names() or not is_absent:
            raise
        raise UnknownName(unknown("paper", name, paper_names())) from error
    return paper


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """One line for a name that does not exist, with the nearest one that does."""
    options = sorted(known)
    near = difflib.get_close_matches(name, options, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"unknown {kind} {name!r}.{hint} Known: {', '.join(options)}"


def check(config: DictConfig) -> RunConfig:
    """Merge a composed config into the schema, which refuses unknown keys and wrong types wherever they stand.

    Hydra alone accepts `+num_item=3` (a new key) and ignores it; the merge does not.

    Raises:
        ConfigError: an unknown key, a value of the wrong type, or one out of range.
    """
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    plain.setdefault("plan", {})
    for name in ("methods", "plugins"):  # one name needs no brackets
        if isinstance(plain.get(name), str):
            plain[name] = [plain[name]]
    required = {f.name: None for f in dataclasses.fields(RunConfig) if f.default is dataclasses.MISSING}
    absent = [name for name in required if name not in plain and name != "paper"]
    if absent:
        raise ConfigError(f"the configuration has no value for {', '.join(absent)}.")
    try:
        merged = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(RunConfig), plain))
    except ConfigKeyError as error:
        key = str(error.full_key or error.key)
        raise ConfigError(unknown_setting(key)) from error
    except OmegaConfBaseException as error:
        key = str(getattr(error, "full_key", "") or "")
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"{key}: {reason}" if key else reason) from error
    assert isinstance(merged, RunConfig)
    if merged.methods is not None:
        if not merged.methods:
            raise ConfigError("methods=[] names no method; leave it out for those of each experiment.")
        merged.methods = list(dict.fromkeys(merged.methods))  # named twice is one method
    if merged.scale not in SCALES:
        raise ConfigError(f"scale={merged.scale!r} is not a scale. Choose one of {', '.join(SCALES)}.")
    for name, low in (("num_items", 1), ("num_seeds", 1), ("seed", 0), ("threads", 1)):
        value = getattr(merged, name)
        if value is not None and value < low:
            raise ConfigError(f"{name}={value} is too small; it must be at least {low}.")
    return merged


def unknown_setting(key: str) -> str:
    """One line for a setting that does not exist, wherever in the tree it stands."""
    *parents, last = key.split(".")
    schema: Any = RunConfig
    for part in parents:
        field = {f.name: f for f in dataclasses.fields(schema)}.get(part) if dataclasses.is_dataclass(schema) else None
        schema = {"model": ModelConfig, "data": DataConfig}.get(part) if field is not None else None
    names = [f.name for f in dataclasses.fields(schema)] if schema is not None else []
    near = difflib.get_close_matches(last, names, n=1)
    hint = f" Did you mean {'.'.join([*parents, near[0]])!r}?" if near else ""
    return f"unknown setting {key!r}.{hint} `python -m experiments.run --help` lists all settings."


@dataclasses.dataclass(frozen=True)
class Job:
    """One run to do: an experiment with one seed, every default resolved."""

    identity: RunIdentity
    methods: Mapping[str, Any]
    workload: Any
    experiment: Any

    @property
    def settings(self) -> Mapping[str, Any]:
        return self.identity.settings


def plan_jobs(config: RunConfig, given: frozenset[str] = frozenset()) -> list[Job]:
    """Resolve a checked config to the runs that it asks for, in order: experiment by experiment, seed by seed.

    Every method, workload and experiment is built here, so a wrong knob is refused before anything runs.

    Args:
        config: from `check`.
        given: settings named on the command line; a plan's model gives way to `model=...` or `model.x=...`.

    Raises:
        ConfigError: an unknown name or knob, or nothing to run.
    """
    for module in config.plugins:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module.partition(".")[0] and error.name != module:
                raise
            raise ConfigError(
                f"plugin {module!r} cannot be imported. It must be a module in this folder or an installed package."
            ) from error
    paper = load_paper(config.paper)
    jobs: list[Job] = []
    for name in _experiment_names(config, paper):
        plan = config.plan.get(name, PlanConfig())
        size = _merge_sizes(config.sizes.get(config.scale), plan.sizes.get(config.scale))
        methods = plan.methods if config.methods is None else config.methods
        workload = plan.workload if config.workload is None else config.workload
        from_plan = config.workload is None or config.workload == plan.workload
        workload_args = (plan.workload_args | size.workload_args if from_plan else {}) | config.workload_args
        args = plan.args | size.args | config.experiment_args.get(name, {})
        experiment = paper.experiments.create(name, **args)
        method_args = {
            method: plan.method_args.get(method, {}) | config.method_args.get(method, {}) for method in methods
        }
        instances = {method: paper.methods.create(method, **knobs) for method, knobs in method_args.items()}
        workload_instance = paper.workloads.create(workload, **workload_args) if workload else None
        num_items = config.num_items if config.num_items is not None else size.num_items
        if num_items is None:
            raise ConfigError(f"experiment {name!r} has no num_items for scale={config.scale}; give num_items=...")
        num_seeds = config.num_seeds if config.num_seeds is not None else size.num_seeds or 1
        model = dataclasses.asdict(config.model)
        if plan.model is not None and not any(key == "model" or key.startswith("model.") for key in given):
            model = dataclasses.asdict(ModelConfig(**plan.model))
        settings = {
            "methods": sorted(methods),
            "method_args": {method: _resolved(instances[method], method_args[method]) for method in methods},
            "workload": workload,
            "workload_args": _resolved(workload_instance, workload_args),
            "experiment_args": _resolved(experiment, args),
            "num_items": num_items,
            "threads": config.threads,
            "model": model,
            "data": dataclasses.asdict(config.data),
            "scale": config.scale,
        }
        assert not set(settings) & set(VOLATILE_SETTINGS)
        for seed in [config.seed] if config.seed is not None else range(num_seeds):
            identity = RunIdentity(config.paper, name, seed, config.scale, settings)
            jobs.append(Job(identity, instances, workload_instance, experiment))
    for setting, registry, named in (
        ("method_args", paper.methods, config.method_args),
        ("experiment_args", paper.experiments, config.experiment_args),
    ):
        _refuse_unused(setting, registry, named, jobs)
    return jobs


def _experiment_names(config: RunConfig, paper: Paper) -> list[str]:
    chosen = config.experiment
    if chosen is None:
        chosen = config.default_experiments
    elif chosen == "all":
        chosen = [name for name in config.plan if name in paper.experiments]
    elif isinstance(chosen, str):
        chosen = [chosen]
    if not isinstance(chosen, Sequence) or not chosen:
        raise ConfigError(f"experiment={config.experiment!r} is neither a name, a list of names, nor 'all'.")
    for name in chosen:
        paper.experiments.get(name)
    return list(chosen)


def _merge_sizes(general: SizeConfig | None, own: SizeConfig | None) -> SizeConfig:
    general, own = general or SizeConfig(), own or SizeConfig()
    return SizeConfig(
        num_items=own.num_items if own.num_items is not None else general.num_items,
        num_seeds=own.num_seeds if own.num_seeds is not None else general.num_seeds,
        args=general.args | own.args,
        workload_args=general.workload_args | own.workload_args,
    )


def _resolved(instance: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """The knobs of a built instance with their defaults, as JSON types: a changed default must change the run's id."""
    if dataclasses.is_dataclass(instance) and not isinstance(instance, type):
        knobs = {field.name: getattr(instance, field.name) for field in dataclasses.fields(instance) if field.init}
        return {name: _plain(value) for name, value in knobs.items()}
    return {name: _plain(value) for name, value in given.items()}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {"type": type(value).__name__} | _resolved(value, {})
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ConfigError(f"knob value {value!r} cannot be stored; use numbers, strings, lists or dataclasses of them.")


def _refuse_unused(setting: str, registry: Registry[Any], named: Mapping[str, Any], jobs: Sequence[Job]) -> None:
    """Knobs for something that does not run are a mistake, not a wish."""
    used = {
        name
        for job in jobs
        for name in (job.settings["methods"] if setting == "method_args" else [job.identity.experiment])
    }
    for name in named:
        registry.get(name)
        if name not in used:
            raise ConfigError(
                f"{setting}.{name} was given, but {name!r} is not among those that run: {', '.join(sorted(used))}."
            )
