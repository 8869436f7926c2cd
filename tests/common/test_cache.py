"""The artefact cache: atomic, checked, made once."""

import json
import multiprocessing
from pathlib import Path

import pytest

from common.cache import MANIFEST, ArtefactCache, DamagedArtefact, atomic_file
from common.errors import ConfigError


def writer(text: str, calls: list[int] | None = None):
    def make(folder: Path) -> None:
        if calls is not None:
            calls.append(1)
        (folder / "sub").mkdir()
        (folder / "sub" / "a.txt").write_text(text)

    return make


def test_made_once_then_found(tmp_path):
    cache, calls = ArtefactCache(tmp_path), []
    assert cache.get("t", {"x": 1}) is None
    folder = cache.get_or_make("t", {"x": 1, "y": 2}, writer("one", calls))
    again = cache.get_or_make("t", {"y": 2, "x": 1}, writer("two", calls))  # the order of the keys is no difference
    assert folder == again == cache.get("t", {"x": 1, "y": 2})
    assert calls == [1]
    assert (folder / "sub" / "a.txt").read_text() == "one"
    assert sorted(path.name for path in folder.parent.iterdir()) == [f".{folder.name}.lock", folder.name]


def test_another_description_or_kind_is_another_artefact(tmp_path):
    cache = ArtefactCache(tmp_path)
    folders = [
        cache.get_or_make(kind, {"x": x}, writer(f"{kind}{x}"))
        for kind, x in [("a", 1), ("a", 2), ("a", "1"), ("b", 1)]
    ]
    assert len(set(folders)) == 4
    assert [(folder / "sub/a.txt").read_text() for folder in folders] == ["a1", "a2", "a1", "b1"]


def damage_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def garble_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text("{")


def flip_a_bit(folder: Path) -> None:
    (folder / "sub/a.txt").write_text("onf")


def truncate(folder: Path) -> None:
    (folder / "sub/a.txt").write_text("on")


def remove(folder: Path) -> None:
    (folder / "sub/a.txt").unlink()


def claim_another(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | {"description": {"x": 2}}))


@pytest.mark.parametrize("damage", [damage_manifest, garble_manifest, flip_a_bit, truncate, remove, claim_another])
def test_a_damaged_artefact_is_made_again_with_a_warning(tmp_path, damage):
    cache = ArtefactCache(tmp_path)
    folder = cache.get_or_make("t", {"x": 1}, writer("one"))
    damage(folder)
    with pytest.warns(DamagedArtefact):
        assert cache.get("t", {"x": 1}) is None
    with pytest.warns(DamagedArtefact):
        assert cache.get_or_make("t", {"x": 1}, writer("new")) == folder
    assert (cache.get("t", {"x": 1}) / "sub/a.txt").read_text() == "new"


def test_a_failed_making_leaves_nothing(tmp_path):
    cache = ArtefactCache(tmp_path)

    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        cache.get_or_make("t", {}, fail)
    assert cache.get("t", {}) is None
    assert [path.name for path in (tmp_path / "t").iterdir() if not path.name.endswith(".lock")] == []
    with pytest.raises(ConfigError, match="at least one file"):
        cache.get_or_make("t", {}, lambda folder: None)


@pytest.mark.parametrize("description", [{"x": object()}, {"x": float("nan")}])
def test_descriptions_must_be_json(tmp_path, description):
    with pytest.raises(ConfigError, match="JSON"):
        ArtefactCache(tmp_path).get("t", description)
    with pytest.raises(ConfigError, match="plain name"):
        ArtefactCache(tmp_path).get("../t", {})


def _make_in_process(root: str, index: int) -> None:
    def make(folder: Path) -> None:
        with open(Path(root) / "made", "a") as file:
            file.write(f"{index}\n")
        (folder / "a").write_text("x" * 100_000)

    folder = ArtefactCache(Path(root)).get_or_make("t", {"k": 1}, make)
    assert (folder / "a").stat().st_size == 100_000


def test_processes_that_want_the_same_artefact_make_it_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_make_in_process, args=(str(tmp_path), i)) for i in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert len((tmp_path / "made").read_text().split()) == 1


def test_atomic_file_keeps_the_former_content_on_failure(tmp_path):
    path = tmp_path / "f"
    with atomic_file(path) as temporary:
        temporary.write_text("one")

    def fail() -> None:
        with atomic_file(path) as temporary:
            temporary.write_text("tw")
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        fail()
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]
