"""The walls of the house: who may import whom, read from the source."""

import ast
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted([*(ROOT / "tune_newllm").rglob("*.py"), *(ROOT / "analysis").rglob("*.py")])

OURS = {
    "errors": set(),
    "records": set(),
    "data": {"errors"},
    "models": {"errors"},
    "training": {"errors", "data", "models"},
    "sweep": {"errors", "records", "data", "models", "training"},
    "artifacts": {"errors", "data", "models", "training"},
    "analysis": {"errors", "records"},
    "cli": {"errors", "records", "data", "models", "training", "sweep", "artifacts", "analysis"},
    "__main__": {"cli"},
    "__init__": set(),
}
"""Room -> the rooms it may import from."""

HEAVY = {
    "torch": {"models", "training", "sweep", "artifacts", "cli"},
    "ray": {"sweep"},
    "optuna": {"sweep", "analysis"},
    "transformers": {"models", "artifacts", "data"},
    "datasets": {"data"},
    "plotly": {"analysis"},
    "matplotlib": {"analysis"},
    "pandas": {"analysis", "data"},
    "pydantic": {"records", "sweep", "artifacts"},
    "click": {"cli"},
    "rich": {"cli", "data"},
    "scipy": {"sweep", "analysis"},
    "safetensors": {"training"},
    "torchao": {"models", "artifacts"},
    "pyarrow": {"data"},
}
"""Library -> the rooms that may import it."""


def room(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return "analysis" if parts[0] == "analysis" else parts[1]


def imports(path: Path) -> set[str]:
    """Dotted names of all modules that a file imports, wherever in it; relative imports are made absolute."""
    names = set()
    package = path.relative_to(ROOT).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: -node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_keep_the_walls(path):
    here = room(path)
    for name in imports(path):
        top, _, rest = name.partition(".")
        target = rest.split(".")[0] if top == "tune_newllm" else top if top == "analysis" else None
        if target and target != here and not (top == "tune_newllm" and target == "__version__"):
            assert target in OURS[here], f"{here} imports {name}"
        if top in HEAVY:
            assert here in HEAVY[top], f"{here} imports {name}"
        if top == "plotly":
            assert "figures" in path.parts or path.stem in {"figures", "report"}, f"{path} imports {name}"


def test_every_room_is_known():
    assert {room(path) for path in FILES} == set(OURS)


def test_the_exported_model_code_imports_torch_numpy_and_itself_alone():
    shipped = ("config", "context_scan", "context_vector", "fixed_point", "products", "protocol", "recurrence")
    for name in shipped:
        path = ROOT / "tune_newllm" / "models" / f"{name}.py"
        tops = {n.partition(".")[0] for n in imports(path)} - set(sys.stdlib_module_names)
        assert tops <= {"torch", "numpy", "tune_newllm"}
        ours = {n for n in imports(path) if n.startswith("tune_newllm")}
        own = tuple(f"tune_newllm.models.{each}" for each in shipped)
        assert all(each.startswith(own) for each in ours)


def test_the_command_line_loads_nothing_heavy_before_a_command_needs_it():
    code = "import sys, tune_newllm.cli.main; print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = set(shown.split())
    assert not loaded & {"torch", "ray", "optuna", "transformers", "datasets", "pandas", "plotly", "numpy", "scipy"}


def test_a_mistake_in_a_sweep_file_is_told_without_loading_torch_or_ray():
    code = "import sys, tune_newllm.sweep.loading; print(*sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not set(shown.split()) & {"torch", "ray", "optuna", "transformers", "datasets", "pandas", "plotly", "scipy"}


def test_a_bare_machine_can_train_and_measure_speed():
    """With torch and NumPy alone, as far as our own imports go."""
    libraries = sorted(set(HEAVY) - {"torch"} | {"ruamel", "filelock", "plotext", "tokenizers"})
    code = f"""
        import sys

        class Absent:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in {libraries}:
                    raise ModuleNotFoundError(name)

        sys.meta_path.insert(0, Absent())
        sys.path.insert(0, "benchmarks")
        import step, scale, tune_newllm.training.loop, tune_newllm.training.run
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, check=True)
