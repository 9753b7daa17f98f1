"""What the architecture promises of the source: imports point down, few names know few libraries, short functions."""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "asd_cli"
FILES = sorted(PACKAGE.rglob("*.py"))

BASE = {"errors", "options", "version"}
ALLOWED: dict[str, set[str]] = {
    "version": set(),
    "errors": set(),
    "options": set(),
    "staging": {"errors"},
    "model_file": {"errors", "version"},
    "raster": BASE | {"staging"},
    "nn": BASE,
    "density": BASE,
    "metrics": BASE,
    "vector": BASE | {"raster"},
    "data": BASE | {"raster", "vector", "density"},
    "methods": BASE | {"data", "density", "nn"},
    "workflows": BASE | {"staging", "model_file", "raster", "vector", "nn", "density", "metrics", "data", "methods"},
    "cli": BASE | {"workflows", "methods"},
    "__main__": {"cli"},
}
"""What each part may import besides itself; `version` is what `asd_cli/__init__.py` holds."""

LIBRARIES: dict[str, set[str]] = {
    "torch": {"nn", "methods", "workflows"},
    "click": {"cli"},
    "tqdm": {"cli"},
    "rasterio": {"raster", "vector"},
    "pyproj": {"vector"},
    "pyarrow": {"vector"},
    "scipy": {"metrics", "vector"},
    "geopandas": {"vector"},
    "pyogrio": {"vector", "data"},
    "shapely": {"vector"},
    "albumentations": {"data"},
    "matplotlib": {"workflows"},
    "jinja2": {"workflows"},
    "safetensors": {"model_file", "methods", "workflows"},
    "onnx": {"nn"},
    "triton": {"nn"},
    "timm": {"methods"},
    "dask": {"workflows"},
    "distributed": {"workflows"},
    "onnxruntime": {"nn", "methods"},
}
"""The only parts that may import these libraries."""

LONGEST_FUNCTION, LONGEST_FILE = 50, 350
LONG_FUNCTIONS: set[str] = set()
LONG_FILES: set[str] = set()
READS_ENVIRONMENT = {"data/augment.py", "nn/onnx_graph.py"}  # what they import must not go online


def part_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "version" if first == "__init__" else first


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def imports(tree: ast.AST) -> Iterator[str]:
    """Modules imported anywhere in a file, inside functions and for type checkers, too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            if node.module == "asd_cli":
                yield from (
                    "asd_cli" if alias.name == "__version__" else f"asd_cli.{alias.name}" for alias in node.names
                )
            else:
                yield str(node.module)


TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def test_every_part_has_its_place_on_the_ladder() -> None:
    assert {part_of(path) for path in FILES} == set(ALLOWED)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_point_down(path: Path) -> None:
    part = part_of(path)
    for module in imports(TREES[path]):
        name, _, rest = module.partition(".")
        if name == "asd_cli":
            target = rest.split(".")[0] or "version"
            assert target == part or target in ALLOWED[part], f"{name_of(path)} imports {module}"
        else:
            assert part in LIBRARIES.get(name, {part}), f"{name_of(path)} imports {module}"


def test_the_ladder_has_no_cycle() -> None:
    placed: set[str] = set()
    while len(placed) < len(ALLOWED):
        free = {part for part, below in ALLOWED.items() if part not in placed and below <= placed}
        assert free, f"a cycle among {sorted(set(ALLOWED) - placed)}"
        placed |= free


def test_every_import_is_a_declared_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    texts = [*project["dependencies"], *extras["backbones"], *extras["distributed"]]
    declared = {text.split(">")[0].strip().replace("-", "_") for text in texts}
    brought = {"affine", "triton", "dask"}  # by rasterio, the CUDA builds of torch, and distributed
    used = {module.split(".")[0] for tree in TREES.values() for module in imports(tree)}
    used -= {*sys.stdlib_module_names, "asd_cli"}
    assert used - declared - brought == set()


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_prints_and_only_the_command_line_reads_the_environment(path: Path) -> None:
    for node in ast.walk(TREES[path]):
        where = f"{name_of(path)}, line {getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("print", "breakpoint", "eval", "exec"), where
        if isinstance(node, ast.Assert):
            assert ast.unparse(node.test).endswith(" is not None"), f"{where}: an assert for more than the type checker"
        reads = isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
        if reads and part_of(path) != "cli" and name_of(path) not in READS_ENVIRONMENT:
            raise AssertionError(f"{where} reads the environment")


def test_functions_and_files_are_short() -> None:
    long_functions, long_files = set(), set()
    for path, tree in TREES.items():
        if len(path.read_text(encoding="utf-8").splitlines()) > LONGEST_FILE:
            long_files.add(name_of(path))
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
                if (node.end_lineno or 0) - first.lineno + 1 > LONGEST_FUNCTION:
                    long_functions.add(f"{name_of(path)}:{node.name}")
    assert long_functions == LONG_FUNCTIONS
    assert long_files == LONG_FILES


def test_tests_mirror_the_package() -> None:
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    tests = ROOT / "tests"
    assert {name for name in folders if not list((tests / name).glob("test_*.py"))} == set()


def test_every_command_is_in_the_readme() -> None:
    readme = ROOT / "README.md"
    if not readme.exists():
        pytest.skip("there is no README.md here")
    from asd_cli.cli import main

    text = readme.read_text(encoding="utf-8")
    assert [name for name in main.commands if f"asd {name}" not in text] == []
