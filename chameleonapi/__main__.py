"""Command line: `python -m chameleonapi parse APP [--json] [--vocabulary [NAME=]FILE]`."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from chameleonapi.vocabularies import NAMES, read_vocabulary
from common.errors import ConfigError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns 0 if every decision was understood, 1 if one was refused or none found, 2 on a usage error."""
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
    options = parser.parse_args(argv)
    from chameleonapi.parser.parse import parse_application
    from chameleonapi.parser.words import describe_report

    try:
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
    except ConfigError as error:
        print(f"ConfigError: {error}", file=sys.stderr)
        return 2
    print(json.dumps(report.to_json(), indent=2, ensure_ascii=False) if options.json else describe_report(report))
    understood = report.decisions and all(d.kind != "unsupported" for d in report.decisions)
    return 0 if understood else 1


if __name__ == "__main__":
    sys.exit(main())
