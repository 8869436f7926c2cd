"""The `data` config group: every choice there is loads the dataset that its name says."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from common.data.sources import DATASETS, DataSpec, TextDataset, load_items
from common.errors import ConfigError, DataUnavailable

FOLDER = Path(__file__).resolve().parents[3] / "experiments" / "conf" / "data"
# Sources of text; local_video names a folder of clips, see tests/common/data_video.
CHOICES = sorted(
    path.stem
    for path in FOLDER.glob("*.yaml")
    if path.stem.startswith(("local_", "hf_", "own_")) and path.stem != "local_video"
)


def settings(choice):
    return OmegaConf.to_container(OmegaConf.load(FOLDER / f"{choice}.yaml"), resolve=True)


@pytest.mark.parametrize("choice", CHOICES)
def test_choice(choice, monkeypatch):
    monkeypatch.delenv("NINEFOLD_DATA", raising=False)
    spec = DataSpec.from_settings(settings(choice))
    source, _, dataset = choice.partition("_")
    assert spec.name == choice
    assert spec.source == ("local" if source == "own" else source)
    assert spec.dataset == dataset
    assert spec.root is None
    if source == "local":
        with pytest.raises(DataUnavailable, match=r"set data\.root=FOLDER or NINEFOLD_DATA"):
            load_items(spec)
    if source == "own":
        with pytest.raises(ConfigError, match=r"needs data\.options\.file"):
            load_items(spec)


@pytest.mark.parametrize("choice", CHOICES)
def test_choice_fits_the_schema_of_a_run(choice):
    from hydra import compose, initialize_config_dir

    from experiments.schema import DataConfig

    with initialize_config_dir(str(FOLDER.parent), version_base="1.3"):
        has_root = not choice.startswith("hf_")
        config = compose("config", overrides=[f"data={choice}", *(["data.root=/somewhere"] if has_root else [])])
    merged = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(DataConfig), config.data))
    spec = DataSpec.from_settings(vars(merged))
    assert (spec.name, spec.root) == (choice, "/somewhere" if has_root else None)


def test_every_dataset_can_be_chosen():
    expected = {f"hf_{name}" for name in DATASETS if DATASETS.get(name).hub}
    expected |= {f"local_{name}" for name in DATASETS if DATASETS.get(name).paths is not TextDataset.paths}
    assert set(CHOICES) == expected - {"local_jsonl"} | {"own_jsonl"}


def test_the_data_root_comes_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("NINEFOLD_DATA", str(tmp_path))
    with pytest.raises(DataUnavailable, match=f"{tmp_path}/text/squad"):
        load_items(DataSpec.from_settings(settings("local_squad")))
