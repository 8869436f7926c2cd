"""Registries: names are unique, mistakes are named, knobs are dataclass fields."""

from dataclasses import dataclass, field

import pytest

from common.errors import ConfigError, UnknownName
from common.registry import Registry


def registry() -> Registry:
    found: Registry = Registry("fruit")

    @found.add("apple", label="Apple", color="red", marker="o")
    @dataclass(frozen=True)
    class Apple:
        """A fruit.

        More about it.
        """

        weight_g: float
        seeds: int = 5
        sorts: list = field(default_factory=lambda: ["Boskoop"])

        def __post_init__(self):
            if self.weight_g <= 0:
                raise ValueError(f"weight_g={self.weight_g} must be positive")

    return found


def test_create_sets_knobs_and_refuses_wrong_ones():
    fruit = registry()
    assert fruit.create("apple", weight_g=100).seeds == 5
    with pytest.raises(ConfigError, match=r"no knob 'seds'\. Did you mean 'seeds'"):
        fruit.create("apple", weight_g=100, seds=3)
    with pytest.raises(ConfigError, match="needs a value for weight_g"):
        fruit.create("apple")
    with pytest.raises(ConfigError, match="weight_g=-1 must be positive"):
        fruit.create("apple", weight_g=-1)


def test_unknown_names_are_key_errors_that_print_their_message():
    with pytest.raises(UnknownName, match="Did you mean 'apple'") as caught:
        registry().get("aple")
    assert isinstance(caught.value, KeyError)
    assert str(caught.value).startswith("unknown fruit 'aple'.")


def test_a_second_object_under_a_name_is_refused_and_a_reload_is_not():
    fruit = registry()
    other = registry().get("apple")
    fruit.add("apple")(other)  # the same definition, executed again
    with pytest.raises(ConfigError, match="already registered"):
        fruit.add("apple")(int)


def test_knobs_summary_and_style():
    fruit = registry()
    assert list(fruit.knobs("apple")) == ["weight_g", "seeds", "sorts"]
    assert fruit.knobs("apple")["sorts"] == ["Boskoop"]
    assert fruit.summary("apple") == "A fruit."
    assert (fruit.style("apple").label, fruit.style("apple").color) == ("Apple", "red")

    @fruit.add("pear_tree")
    @dataclass(frozen=True)
    class Pear:
        size: int = 1

    assert fruit.style("pear_tree").label == "pear tree"
    assert fruit.summary("pear_tree") == "", "a dataclass's generated docstring says nothing"


def test_built_in_modules_are_imported_on_first_use_only(monkeypatch):
    found: Registry = Registry("thing", modules=["common.no_such_module"])
    with pytest.raises(ModuleNotFoundError):
        found.names()
    with pytest.raises(ModuleNotFoundError):
        found.names()  # a failed load is not remembered as done
