"""Command line: `python -m chameleonapi parse|train|models|activate|rollback|serve|client` (`--help` says what each takes)."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from chameleonapi.vocabularies import NAMES, read_vocabulary
from common.errors import ConfigError, ReproError


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        0 if it did what was asked (`parse`: every decision was understood), 1 if not (one was refused or none found; stored data
        are damaged), 2 on a usage error.
    """
    options = _parser().parse_args(argv)
    try:
        return int(options.run(options))
    except ConfigError as error:
        print(f"ConfigError: {error}", file=sys.stderr)
        return 2
    except (ReproError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m chameleonapi", description="Customize ML APIs to applications.")
    commands = parser.add_subparsers(dest="command", required=True)
    parse = commands.add_parser(
        "parse", help="find the decisions that an application takes on ML API output; nothing of it is run"
    )
    parse.add_argument("app", type=Path, help="a Python file or a folder with Python files")
    parse.add_argument("--json", action="store_true", help="print JSON instead of words")
    parse.add_argument(
        "--vocabulary",
        action="append",
        default=[],
        metavar="[NAME=]FILE",
        help=f"labels of the API, one per line (or a JSON list). NAME is one of {', '.join(NAMES)}; "
        "without it the file holds image labels, object names and text topics",
    )
    parse.set_defaults(run=_parse)
    train = commands.add_parser(
        "train", help="customize the bundled provider's model to an application and register it"
    )
    train.add_argument("app", type=Path, help="a Python file or a folder; it is parsed, not run")
    train.add_argument("--models", type=Path, required=True, help="registry folder, created when needed")
    train.add_argument("--app-id", help="name under which it is served (default: the file's name)")
    train.add_argument("--task", default="everyday", help="everyday (images) or topics (texts)")
    train.add_argument("--method", default="chameleonapi", help="a method that trains a network")
    train.add_argument("--decision", type=int, default=0, help="which of the application's decisions, from 0")
    train.add_argument("--examples", type=int, default=2000, help="training examples")
    train.add_argument("--epochs", type=int, default=3, help="of each stage")
    train.add_argument("--seed", type=int, default=0)
    train.set_defaults(run=_train)
    models = commands.add_parser("models", help="list what is registered")
    activate = commands.add_parser("activate", help="serve another version of an application's model")
    rollback = commands.add_parser("rollback", help="serve the version before the current one")
    for command, run in ((models, _models), (activate, _activate), (rollback, _rollback)):
        command.add_argument("--models", type=Path, required=True, help="registry folder")
        command.set_defaults(run=run)
    activate.add_argument("app_id")
    activate.add_argument("version", type=int)
    rollback.add_argument("app_id")
    serve = commands.add_parser("serve", help="serve the registered models in the providers' interfaces")
    serve.add_argument("--models", type=Path, required=True, help="registry folder")
    serve.add_argument("--host", default="127.0.0.1")
    serve.add_argument("--port", type=int, default=8600)
    serve.add_argument("--theta", type=float, default=0.5, help="threshold of the generic models")
    serve.set_defaults(run=_serve)
    client = commands.add_parser("client", help="print the folder of the drop-in client, for PYTHONPATH")
    client.set_defaults(run=_client)
    return parser


def _parse(options: argparse.Namespace) -> int:
    from chameleonapi.parser.parse import parse_application
    from chameleonapi.parser.words import describe_report

    vocabularies: dict[str, tuple[str, ...]] = {}
    for given in options.vocabulary:
        name, equals, file = given.partition("=")
        if equals and name not in NAMES and not Path(given).is_file():
            raise ConfigError(f"vocabulary name {name!r} is not known. Choose one of {', '.join(NAMES)}.")
        if equals and name in NAMES:
            vocabularies[name] = read_vocabulary(Path(file))
        else:
            labels = read_vocabulary(Path(given))
            for each in ("image", "object", "topic"):
                vocabularies[each] = labels
    report = parse_application(options.app, vocabularies)
    print(json.dumps(report.to_json(), indent=2, ensure_ascii=False) if options.json else describe_report(report))
    understood = report.decisions and all(d.kind != "unsupported" for d in report.decisions)
    return 0 if understood else 1


def _train(options: argparse.Namespace) -> int:
    from chameleonapi.applications import Application
    from chameleonapi.customize import customize_and_publish

    app = Application(options.app_id or options.app.stem, options.app, options.task, decision=options.decision)
    done = customize_and_publish(
        app, options.models, options.method, examples=options.examples, epochs=options.epochs, seed=options.seed
    )
    print(
        f"{done.version.app_id}: version {done.version.version} ({done.kind}, {done.num_lists} lists) is served from now on"
    )
    print(
        f"incorrect decisions on {done.num_test} test inputs: generic {done.generic_idr:.3f}, customized {done.idr:.3f}"
    )
    return 0


def _models(options: argparse.Namespace) -> int:
    from chameleonapi.registry import ModelRegistry

    registry = ModelRegistry(options.models)
    for app_id in registry.app_ids():
        current = registry.current(app_id)
        for version in registry.versions(app_id):
            mark = "*" if current is not None and version.version == current.version else " "
            print(
                f"{mark} {app_id} {version.version}: model {version.model[:12]}, theta {version.theta:g}, K {version.top_k}"
            )
    if not registry.app_ids():
        print(f"no application is registered in {options.models}")
    return 0


def _activate(options: argparse.Namespace) -> int:
    from chameleonapi.registry import ModelRegistry

    version = ModelRegistry(options.models).activate(options.app_id, options.version)
    print(f"{version.app_id}: version {version.version} is served from now on")
    return 0


def _rollback(options: argparse.Namespace) -> int:
    from chameleonapi.registry import ModelRegistry

    version = ModelRegistry(options.models).rollback(options.app_id)
    print(f"{version.app_id}: version {version.version} is served from now on")
    return 0


def _serve(options: argparse.Namespace) -> int:
    import time

    from chameleonapi.pretrain import shipped
    from chameleonapi.registry import ModelRegistry, Router
    from chameleonapi.server import serving

    generic = {"image": shipped("generic"), "topic": shipped("topics_generic")}
    router = Router(ModelRegistry(options.models), generic, theta=options.theta)
    with serving(router, options.host, options.port) as server:
        print(f"serving {len(router.registry.app_ids())} applications on {server.url}; Ctrl-C ends it", flush=True)
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            return 0


def _client(_: argparse.Namespace) -> int:
    from chameleonapi.applications import DROPIN

    print(DROPIN)
    return 0


if __name__ == "__main__":
    sys.exit(main())
