"""The dependency rule: common knows no paper, a paper knows only common, figures draw without torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAPERS = (
    "ragserve",
    "llmsteer",
    "cacheblend",
    "cachegen",
    "chatterbox",
    "chameleonapi",
    "oneadapt",
    "accmpeg",
    "grace",
)
ALLOWED = {
    "common": {"common"},
    "experiments": {"common", "experiments", "paper_figures", *PAPERS},
    "paper_figures": {"common", "paper_figures"},
} | {paper: {"common", paper} for paper in PAPERS}
FIGURES_MAY_USE = ("common.results", "common.stats", "common.plotting", "common.registry", "common.errors")
PRESENT = [name for name in ALLOWED if (ROOT / name / "__init__.py").exists()]


def imported_modules(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the whole name"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("package", PRESENT)
def test_packages_import_only_what_they_may(package):
    for path in (ROOT / package).rglob("*.py"):
        for module in imported_modules(path):
            top = module.partition(".")[0]
            assert top not in ALLOWED or top in ALLOWED[package], f"{path.relative_to(ROOT)} imports {module}"
            if package == "paper_figures" and top == "common":
                assert module.startswith(FIGURES_MAY_USE), f"{path.relative_to(ROOT)} imports {module}"


def test_every_top_level_package_is_one_of_the_layout_and_lands_in_the_wheel():
    import tomllib

    packaged = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"][
        "packages"
    ]
    assert sorted(packaged) == sorted(PRESENT)
    on_disk = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert on_disk <= set(ALLOWED)


@pytest.mark.parametrize("package", [name for name in PRESENT if name in PAPERS])
def test_a_paper_package_is_not_a_stub(package):
    sources = "".join(path.read_text() for path in (ROOT / package).rglob("*.py"))
    assert len(sources) > 5000, f"{package} is nearly empty; a paper that is not built does not exist yet"
    assert "NotImplementedError" not in sources


@pytest.mark.parametrize(
    "module",
    [f"{name}{suffix}" for name in PRESENT if name in PAPERS for suffix in ("", ".api")]
    + ["common", "experiments.run"],
)
def test_importing_is_cheap(module):
    code = f"import sys, {module}; print([m for m in ('torch', 'transformers', 'datasets', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
