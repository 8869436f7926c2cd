"""Experiments beside the main table: data, loss, capacity, cost, serving."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from chameleonapi.api import EXPERIMENTS
from chameleonapi.applications import bundled
from chameleonapi.harness import Bench, Case, Sizes, at_operating_points, row
from chameleonapi.losses import conventional_loss
from chameleonapi.methods import ChameleonLoss
from chameleonapi.networks import Architecture, Network, load, save
from chameleonapi.pretrain import Recipe, mean_average_precision, recipes, shipped, train
from chameleonapi.provider import bundled_provider
from chameleonapi.semantics import DecisionProcess
from chameleonapi.tasks.real import grocery_task
from chameleonapi.tasks.tasks import task_named
from chameleonapi.training import Provider, Schedule, fit, micro_f1_threshold, stage_two
from common.cache import ArtefactCache, sha256_of_file
from common.errors import ConfigError, DataUnavailable
from common.experiment import Run
from common.results import ItemRows, Row
from common.timing import measure, measure_interleaved

POINTS = ("fixed", "tuned")


def _idr_rows(case: Case, method: Any, name: str, factors: dict[str, Any]) -> list[Row]:
    at = at_operating_points(case, method, POINTS)
    return [
        row(
            "idr",
            float(judged.wrong(choice).double().mean()),
            name,
            {**case.factors, **factors, "operating_point": point},
        )
        for point, (judged, choice) in at.items()
    ]


@EXPERIMENTS.add("training_size")
@dataclasses.dataclass(frozen=True)
class TrainingSize:
    """Incorrect decision rate over the number of training examples (ChameleonAPI, effect of the amount of training data).

    Every size is trained for as many steps as the largest one, so that data is compared and not time.

    Attributes:
        train_sizes: examples per application.
        validation, test, pool_scale, stage1_epochs, stage2_epochs: as in `incorrect_decisions`; epochs of the largest size.
    """

    train_sizes: tuple[int, ...] = (100, 300, 1000, 2000)
    validation: int = 600
    test: int = 800
    pool_scale: float = 1.0
    stage1_epochs: int = 3
    stage2_epochs: int = 3

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per application, method and size: idr; factors `train_size`, `operating_point`, kind, order."""
        bench = _bench(run, max(self.train_sizes), self)
        for key, app in run.todo(bench.applications()):
            rows = []
            for size in self.train_sizes:
                longer = max(1, round(max(self.train_sizes) / size))
                schedule = Schedule(self.stage1_epochs * longer, self.stage2_epochs * longer)
                case = dataclasses.replace(bench, schedule=schedule).case(app, size)
                for name, method in run.methods.items():
                    rows += _idr_rows(case, method, name, {"train_size": size})
            yield ItemRows(key, rows)


def _bench(run: Run, train: int, sizes: Any) -> Bench:
    pools = int(6000 * sizes.pool_scale), int(10_000 * sizes.pool_scale)
    schedule = Schedule(stage1_epochs=sizes.stage1_epochs, stage2_epochs=sizes.stage2_epochs)
    return Bench.of(run, Sizes(train, sizes.validation, sizes.test, *pools), schedule)


@dataclasses.dataclass(frozen=True)
class Mismatch:
    """The decision loss of another kind of decision on the same lists."""

    kind: str
    order: str | None
    base: ChameleonLoss = dataclasses.field(default_factory=ChameleonLoss)

    def loss(self, app: DecisionProcess, logits_NC: Any, labels_NC: Any) -> Any:
        """Mean decision loss as if the application decided in another way."""
        members = [m.nonzero().flatten().tolist() for m in app.members_LC]
        if self.kind == "true_false":
            members = [sorted({i for own in members for i in own})]
        other = DecisionProcess.from_lists(self.kind, members, app.num_labels, self.order)
        return self.base.loss(other, logits_NC, labels_NC)


@EXPERIMENTS.add("loss_ablation")
@dataclasses.dataclass(frozen=True)
class LossAblation:
    """What each part of the loss is worth: sharpness, weight, margin, none-weight, maximum, stage 1, the decision's kind
    and order.

    Attributes:
        alphas, betas, margins, lams, smooth_maxima: values tried, one at a time, the others at the method's.
        train, validation, test, pool_scale, stage1_epochs, stage2_epochs: as in `incorrect_decisions`.
    """

    alphas: tuple[float, ...] = (1.0, 2.0, 5.0, 10.0)
    betas: tuple[float, ...] = (5.0,)
    margins: tuple[float, ...] = (0.1,)
    lams: tuple[float, ...] = (0.5,)
    smooth_maxima: tuple[float, ...] = (0.05,)
    train: int = 1500
    validation: int = 600
    test: int = 800
    pool_scale: float = 1.0
    stage1_epochs: int = 3
    stage2_epochs: int = 3

    def variants(self, process: DecisionProcess) -> dict[str, Any]:
        """Losses by name, for one application."""
        base = ChameleonLoss()
        out: dict[str, Any] = {f"alpha {a:g}": dataclasses.replace(base, alpha=a) for a in self.alphas}
        out |= {f"beta {b:g}": dataclasses.replace(base, beta=b) for b in self.betas}
        out |= {f"delta {d:g}": dataclasses.replace(base, margin=d) for d in self.margins}
        out |= {f"lambda {x:g}": dataclasses.replace(base, lam=x) for x in self.lams}
        out |= {f"smooth max {t:g}": dataclasses.replace(base, smooth_max=t) for t in self.smooth_maxima}
        out["no stage 1"] = base
        if process.kind == "multi_choice":
            swapped = "app_choice" if process.order == "api_first" else "api_first"
            out["other order"] = Mismatch("multi_choice", swapped)
        if process.num_lists > 1:
            out["as true_false"] = Mismatch("true_false", None)
        return out

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per application and variant: idr; factors `variant`, `operating_point`, kind, order."""
        bench = _bench(run, self.train, self)
        for key, app in run.todo(bench.applications()):
            case = bench.case(app)
            rows = []
            for variant, design in self.variants(case.process).items():
                if variant == "no stage 1":
                    # As many steps in all: stage 2 takes over those of stage 1.
                    schedule = Schedule(0, self.stage1_epochs + self.stage2_epochs)
                    data = dataclasses.replace(case.data, schedule=schedule)
                    rng = run.rng("stage2", app.name)
                    own = design.at_theta(data.theta, data.top_k)

                    def loss(logits_NC: Any, labels_NC: Any, own: Any = own, process: Any = case.process) -> Any:
                        return own.loss(process, logits_NC, labels_NC)

                    judged = case.judge(stage_two(data, bench.provider, loss, rng, bench.provider.generic))
                else:
                    judged = case.judge(case.candidates(design))
                for point in POINTS:
                    value = float(judged.wrong(judged.choose(point)).double().mean())
                    factors = {**case.factors, "variant": variant, "operating_point": point}
                    rows.append(row("idr", value, "chameleonapi", factors))
            yield ItemRows(key, rows)


@EXPERIMENTS.add("capacity")
@dataclasses.dataclass(frozen=True)
class Capacity:
    """The gain over the width of the shared bottleneck: 10 numbers for 40 labels, 20, or none (48 features; ours).

    A generic model that is not shipped is trained first (about a minute of CPU each) and kept beside the results.

    Attributes:
        widths: of the generic model's bottleneck; 0 for none.
        generic_epochs, generic_pool: the generic models' training.
        train, validation, test, pool_scale, stage1_epochs, stage2_epochs: as in `incorrect_decisions`.
    """

    widths: tuple[int, ...] = (10, 20, 0)
    generic_epochs: int = 10
    generic_pool: int = 16_000
    train: int = 1500
    validation: int = 600
    test: int = 800
    pool_scale: float = 1.0
    stage1_epochs: int = 3
    stage2_epochs: int = 3

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per application, method and model: idr; factors `width`, `operating_point`, kind, order. Also generic_map."""
        bench = _bench(run, self.train, self)
        networks = [self._generic(run, width) for width in self.widths]
        benches = [bench.with_provider(dataclasses.replace(bench.provider, generic=network)) for network in networks]
        for key, app in run.todo(benches[0].applications()):
            rows = []
            for bench in benches:
                case = bench.case(app)
                network = bench.provider.generic
                width = network.architecture.bottleneck or network.num_features
                scores_NC = network.scores(bench.test_pool.inputs[:1000])
                value = mean_average_precision(scores_NC, bench.test_pool.labels_NC[:1000])
                rows.append(row("generic_map", value, "generic", {"width": width}))
                for name, method in run.methods.items():
                    rows += _idr_rows(case, method, name, {"width": width})
            yield ItemRows(key, rows)

    def _generic(self, run: Run, width: int) -> Network:
        recipe = dataclasses.replace(
            Recipe(), bottleneck=width, epochs=self.generic_epochs, pool_size=self.generic_pool
        )
        if recipe == recipes()["generic"]:
            return shipped("generic")

        def make(folder: Path) -> None:
            network, _ = train(recipe, task_named(recipe.task).examples("train", recipe.pool_seed, recipe.pool_size))
            save(network, folder / "generic.safetensors", dataclasses.asdict(recipe))

        cache = ArtefactCache(run.cache_dir)
        return load(cache.get_or_make("chameleonapi_generic", dataclasses.asdict(recipe), make) / "generic.safetensors")


@EXPERIMENTS.add("cost")
@dataclasses.dataclass(frozen=True)
class Cost:
    """Time to parse and to customize, and the error rate after each epoch (ChameleonAPI, cost of parsing and training).

    Attributes:
        repeats: timed rounds of parsing.
        vocabulary_size: labels to probe with; the bundled everyday vocabulary, cut or whole.
        train, validation, test, pool_scale, stage1_epochs, stage2_epochs: as in `incorrect_decisions`.
    """

    repeats: int = 3
    vocabulary_size: int = 600
    train: int = 1500
    validation: int = 600
    test: int = 800
    pool_scale: float = 1.0
    stage1_epochs: int = 3
    stage2_epochs: int = 3

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per application: parse_time, training_time (factor stage), validation_idr (factor step)."""
        from chameleonapi.parser.parse import parse_application
        from chameleonapi.vocabularies import load_vocabulary

        bench = _bench(run, self.train, self)
        vocabulary = load_vocabulary("image")[: self.vocabulary_size]
        for key, app in run.todo(bench.applications()):
            case = bench.case(app)

            def parse(path: Path = app.path) -> Any:
                return parse_application(path, {"image": vocabulary})

            timing = measure(parse, warmup=1, repeats=self.repeats)
            rows = [row("parse_time", seconds, "", {"vocabulary": len(vocabulary)}, "s") for seconds in timing.seconds]
            stage1 = measure(case.stage_one, warmup=0, repeats=1)
            rows.append(row("training_time", stage1.seconds[0], "chameleonapi", {"stage": "1"}, "s"))
            for name, method in run.methods.items():

                def train(method: Any = method, case: Case = case) -> Any:
                    return case.candidates(method)

                timing = measure(train, warmup=0, repeats=1)
                rows.append(row("training_time", timing.seconds[0], name, {"stage": "2"}, "s"))
                judged = case.judge(timing.result)
                for epoch, scores_NC in enumerate(judged.validation):
                    one = dataclasses.replace(judged, candidates=[judged.candidates[epoch]], validation=[scores_NC])
                    rows.append(row("validation_idr", one.choose("fixed").validation_idr, name, {"epoch": epoch + 1}))
            yield ItemRows(key, rows)


@EXPERIMENTS.add("serving_load")
@dataclasses.dataclass(frozen=True)
class ServingLoad:
    """Latency, rate and memory of the HTTP server with many customized applications: models of their own against a shared trunk.

    Attributes:
        num_apps: applications registered.
        connections: clients at a time.
        requests: per client.
    """

    num_apps: int = 50
    connections: int = 4
    requests: int = 100

    def __post_init__(self) -> None:
        if min(self.num_apps, self.connections, self.requests) < 1:
            raise ConfigError("num_apps, connections and requests must be at least 1.")

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per round: latency of each request, throughput, memory, failed; factor `form` (generic, shared_trunk, separate)."""
        from chameleonapi.serving_load import load_test, registry_with_apps

        provider = bundled_provider("everyday")
        for key, _ in run.todo([(str(i), i) for i in range(run.num_items)]):
            rows = []
            for form in ("generic", "shared_trunk", "separate"):
                with TemporaryDirectory() as folder:
                    registry = registry_with_apps(
                        Path(folder), provider.generic, self.num_apps, form, run.rng("perturb", form)
                    )
                    found = load_test(
                        registry, provider, self.connections, self.requests, run.rng("load", key, form), self.num_apps
                    )
                factors = {"form": form, "num_apps": self.num_apps, "connections": self.connections}
                rows += [row("latency", seconds, "", factors, "s") for seconds in found.latencies_s]
                rows.append(row("throughput", found.requests_per_s, "", factors, "1/s"))
                rows.append(row("memory", found.memory_bytes, "", factors, "B"))
                rows.append(row("failed", found.num_failed, "", factors, "requests"))
            yield ItemRows(key, rows)


@EXPERIMENTS.add("real_images")
@dataclasses.dataclass(frozen=True)
class RealImages:
    """Three applications on photographs from grocery shops, seen through a SqueezeNet trained on ImageNet (a check of ours).

    The trunk is fixed; the provider's bottleneck and head, and each application's, are trained on the photographs. Needs
    `data.root`.

    Attributes:
        bottleneck: width of the provider's bottleneck.
        generic_epochs: of the provider's training.
        stage1_epochs, stage2_epochs: of the applications' training.
    """

    bottleneck: int = 6
    generic_epochs: int = 60
    stage1_epochs: int = 15
    stage2_epochs: int = 15

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per application and method: idr; factors `operating_point`, kind, order. Also generic_map."""
        root = run.data.get("root")
        if not run.methods:
            raise ConfigError(
                "experiment real_images needs methods=[...]; chameleonapi/README.md has the whole command."
            )
        if not root:
            raise DataUnavailable(
                "experiment real_images needs photographs: data.root=FOLDER with images/grocery and "
                "models/squeezenet1_1_imagenet.safetensors."
            )
        task = grocery_task(Path(root))
        run.note_input("squeezenet", sha256_of_file(task.squeezenet))
        run.note_input("labels", sha256_of_file(Path(root) / "images" / "grocery" / "labels.csv"))
        pool = task.examples("train", run.seed, 10_000)
        schedule = Schedule(self.stage1_epochs, self.stage2_epochs, batch=25)

        def generic(number: int) -> Network:
            rng = run.rng("generic", number)
            architecture = Architecture("features", task.labels, self.bottleneck + number, 512, 0, "grocery")
            network = Network(architecture).initialise(rng, float(pool.labels_NC.sum(1).double().mean()))
            return fit(network, pool, conventional_loss, self.generic_epochs, 3e-3, schedule, rng)[-1]

        networks = [generic(number) for number in range(3)]
        provider = Provider(task, networks[0], tuple(networks[1:]), {}, pool)
        validation, test = (task.examples(split, run.seed, 10_000) for split in ("validation", "test"))
        theta = micro_f1_threshold(provider.generic.scores(validation.inputs), validation.labels_NC)
        bench = Bench(run, provider, validation, test, theta, Sizes(), schedule)
        generic_map = mean_average_precision(provider.generic.scores(test.inputs), test.labels_NC)
        for key, app in run.todo([(app.name, app) for app in bundled() if app.task == "grocery"][: run.num_items]):
            case = bench.case_of_all(app)
            rows = [
                row("generic_map", generic_map, "generic", {}),
                row("test_examples", len(case.test), "", {}, "examples"),
            ]
            for name, method in run.methods.items():
                rows += _idr_rows(case, method, name, {})
            yield ItemRows(key, rows)


@EXPERIMENTS.add("parsing")
@dataclasses.dataclass(frozen=True)
class Parsing:
    """Time to parse each bundled application over the size of the vocabulary (ours).

    Attributes:
        vocabulary_sizes: labels to probe with.
        repeats: timed rounds.
    """

    vocabulary_sizes: tuple[int, ...] = (100, 300, 600, 1100)
    repeats: int = 2

    def rows(self, run: Run) -> Iterator[ItemRows]:
        """Per application and vocabulary: parse_time; factor `vocabulary`."""
        from chameleonapi.parser.parse import parse_application
        from chameleonapi.vocabularies import load_vocabulary

        apps = [(app.name, app) for app in bundled() if app.task == "everyday"][: run.num_items]
        for key, app in run.todo(apps):
            runs = {}
            for size in self.vocabulary_sizes:
                vocabulary = load_vocabulary("image")[:size]

                def parse(path: Path = app.path, vocabulary: Any = vocabulary) -> Any:
                    return parse_application(path, {"image": vocabulary})

                runs[str(len(vocabulary))] = parse
            timings = measure_interleaved(runs, warmup=1, repeats=self.repeats)
            yield ItemRows(
                key,
                [
                    row("parse_time", seconds, "", {"vocabulary": int(size)}, "s")
                    for size, timing in timings.items()
                    for seconds in timing.seconds
                ],
            )
