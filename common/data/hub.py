"""Rows of datasets on the Hugging Face hub, or one clear line that says why there are none.

The hub's own client retries an unreachable network for 20 seconds and more per dataset, so it is asked only after one short
probe. Repositories move and change their format; a dataset therefore names several tables, tried in order, and the failure
names each of them.
"""

import dataclasses
import json
import threading
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Any

from common.data.records import Record
from common.errors import DataUnavailable

PROBE_TIMEOUT_S = 5.0


@dataclasses.dataclass(frozen=True)
class HubTable:
    """One split of one dataset repository.

    Attributes:
        repo: "owner/name".
        layout: which columns its rows have; a name of the dataset's own, given back to it with the rows.
        config: configuration of the repository, if it has several.
        split: split of the repository.
        revision: branch or commit; the hub keeps converted parquet files on "refs/convert/parquet".
        archive, member: for a repository that holds JSON lines in a zip file: its name, and how the file in it ends.
        streaming: read rows over the network as they are asked for, instead of fetching (gigabytes of) everything first.
    """

    repo: str
    layout: str
    config: str | None = None
    split: str = "test"
    revision: str | None = None
    archive: str | None = None
    member: str | None = None
    streaming: bool = False

    def __str__(self) -> str:
        config = f", {self.config}" if self.config else ""
        detail = f"{self.archive}:{self.member}" if self.archive else self.split
        return f"{self.repo} ({detail}{config}{', ' + self.revision if self.revision else ''})"


def open_table(dataset: str, tables: Sequence[HubTable], otherwise: str) -> tuple[Iterator[Record], HubTable]:
    """The rows of the first table that can be read, and which one it is.

    Args:
        dataset: our name of the dataset, for the message.
        tables: where it may lie, best first.
        otherwise: what the user can do without the hub, a sentence for the message.

    Raises:
        DataUnavailable: the hub cannot be reached, or none of the tables can be read.
    """
    if not tables:
        raise DataUnavailable(f"dataset {dataset!r} is not on the hub. {otherwise}")
    from huggingface_hub import constants  # heavy; and it reads the environment, which is its own business

    if not constants.HF_HUB_OFFLINE:  # when told to stay offline, the client answers at once from its cache
        reason = unreachable(constants.ENDPOINT)
        if reason:
            raise DataUnavailable(
                f"dataset {dataset!r} (source=hf): {constants.ENDPOINT} cannot be reached ({reason}); wanted {tables[0]}. "
                f"If it is in the hub cache already, set HF_HUB_OFFLINE=1. {otherwise}"
            )
    tried: list[str] = []
    for table in tables:
        try:
            rows = _read_archive(table) if table.archive else _read_table(table)
            first = list(islice(rows, 1))  # here, so that a table whose first row cannot be had counts as unreadable
        except _hub_errors() as error:
            tried.append(f"{table}: {_one_line(error)}")
            if isinstance(error, ConnectionError) and not constants.HF_HUB_OFFLINE:
                break  # the network is gone: the other tables would each cost the client's retries again
            continue
        return _records(chain(first, rows), table), table
    raise DataUnavailable(
        f"dataset {dataset!r} (source=hf): nothing could be read. Tried {'; '.join(tried)}. {otherwise}"
    )


def unreachable(endpoint: str, timeout_s: float = PROBE_TIMEOUT_S) -> str:
    """Why a web server does not answer within `timeout_s`, or "" if it does (with whatever status)."""
    outcome = [f"no answer within {timeout_s:g} s"]

    def probe() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=timeout_s):
                outcome[0] = ""
        except urllib.error.HTTPError as error:
            outcome[0] = ""  # an error status is an answer
            error.close()
        except (OSError, ValueError) as error:
            outcome[0] = _one_line(getattr(error, "reason", error))

    # In a thread, since resolving the name is not covered by the socket's timeout and can take much longer.
    worker = threading.Thread(target=probe, daemon=True)
    worker.start()
    worker.join(timeout_s)
    return outcome[0]


def _read_table(table: HubTable) -> Iterator[Any]:
    import datasets

    loaded: Any = datasets.load_dataset(
        table.repo, table.config, split=table.split, revision=table.revision, streaming=table.streaming
    )
    return iter(loaded)


def _read_archive(table: HubTable) -> Iterator[Any]:
    import huggingface_hub

    assert table.archive is not None
    assert table.member is not None
    path = huggingface_hub.hf_hub_download(table.repo, table.archive, repo_type="dataset", revision=table.revision)
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(table.member)]
        if not names:
            raise FileNotFoundError(f"{table.archive} holds no file ending in {table.member}")
        text = archive.read(names[0]).decode("utf-8")
    return (json.loads(line) for line in text.split("\n") if line.strip())


def _records(rows: Iterator[Any], table: HubTable) -> Iterator[Record]:
    for index, row in enumerate(rows):
        yield Record(row, str(table), f"row {index}")


def _hub_errors() -> tuple[type[Exception], ...]:
    from huggingface_hub import errors

    # Missing or gated repository, unknown configuration or split, a script where data is expected, a broken archive.
    return (OSError, ValueError, RuntimeError, KeyError, errors.HfHubHTTPError, zipfile.BadZipFile)


def _one_line(error: object) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:160].rstrip(".")
