"""What STYLE asks for and a machine can check: sizes, docstrings, and what must not appear."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LONGEST_FILE, LONGEST_FUNCTION = 400, 40
CODE = sorted(path for folder in ("hypersd", "emoji") for path in (ROOT / folder).rglob("*.py"))

# Spelt so that this file does not match itself.
MACHINE_PATHS = re.compile(r"(?<![\w.~$}-])/(?:root|work|home/\w+)" + "/")
REGISTRIES = tuple(f"{host}.org" for host in ("pypi", "pythonhosted", "registry.npmjs"))

PICKLES = {"pickle", "_pickle", "cPickle", "dill", "joblib", "cloudpickle"}

each_file = pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
Function = ast.FunctionDef | ast.AsyncFunctionDef


def code_lines(source: str, node: Function) -> int:
    """Lines of a function's body without its docstring, blank lines and comments."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    if not body:
        return 0
    lines = source.splitlines()[body[0].lineno - 1 : body[-1].end_lineno]
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in lines)


def too_long(source: str) -> list[str]:
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, Function)]
    return [node.name for node in functions if code_lines(source, node) > LONGEST_FUNCTION]


def offences(source: str, may_print: bool = False) -> list[str]:
    """What has no place in the package, with its line."""
    tree = ast.parse(source)
    allowed = set() if may_print else {id(node) for main in mains(tree) for node in ast.walk(main)}
    found = []
    for node in ast.walk(tree):
        if offence := unpickles(node) or bad_call(node, may_print or id(node) in allowed):
            found.append(f"{node.lineno}: {offence}")
    return found


def mains(tree: ast.Module) -> list[ast.stmt]:
    """The `main` of a module that is a command of its own (`python -m`)."""
    return [node for node in tree.body if isinstance(node, Function) and node.name == "main"]


def unpickles(node: ast.AST) -> str:
    """Reading a pickle runs what it says, unless a subclass's `find_class` chooses what it may name."""
    if isinstance(node, ast.ImportFrom) and node.module in PICKLES:
        return f"from {node.module}"
    if isinstance(node, ast.Import):
        others = [alias.name for alias in node.names if alias.name in PICKLES - {"pickle"}]
        return f"import {others[0]}" if others else ""
    if isinstance(node, ast.ClassDef) and "pickle.Unpickler" in map(ast.unparse, node.bases):
        return "" if "find_class" in {getattr(item, "name", "") for item in node.body} else "Unpickler"
    if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle":
        return "" if node.attr in ("Unpickler", "UnpicklingError") else f"pickle.{node.attr}"
    return ""


def bad_call(node: ast.AST, may_print: bool) -> str:
    if not isinstance(node, ast.Call):
        return ""
    name = ast.unparse(node.func)
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    if name == "torch.load" and given.get("weights_only") != "True":
        return "torch.load without weights_only=True"
    if given.get("allow_pickle") == "True":
        return "allow_pickle"
    forbidden = {"exec", "eval", "pickle.Unpickler"} | (set() if may_print else {"print"})
    return name if name in forbidden else ""


@each_file
def test_files_and_functions_are_short(path):
    source = path.read_text()
    assert len(source.splitlines()) <= LONGEST_FILE
    assert too_long(source) == []


def test_what_is_not_shipped_is_short_too():
    sources = [path.read_text() for folder in ("tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    assert [name for source in sources for name in too_long(source)] == []
    assert max(len(source.splitlines()) for source in sources) <= LONGEST_FILE


@each_file
def test_every_module_says_what_it_is(path):
    assert ast.get_docstring(ast.parse(path.read_text())), "a module starts with a docstring"


@each_file
def test_nothing_is_printed_unpickled_or_executed(path):
    may_print = path.is_relative_to(ROOT / "hypersd" / "cli") or path.is_relative_to(ROOT / "emoji")
    assert offences(path.read_text(), may_print) == []


def test_no_machine_and_no_registry_is_named():
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout, to know which files are the project's")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    files = [ROOT / name for name in names if name and (ROOT / name).is_file()]
    assert [hit for path in files for hit in named(path)] == []


def named(path: Path) -> list[str]:
    try:
        lines = path.read_text().splitlines()
    except UnicodeDecodeError:
        return []  # pictures and weights
    where = path.relative_to(ROOT)
    return [f"{where}:{number}" for number, line in enumerate(lines, 1) if names_a_machine(line)]


def names_a_machine(line: str) -> bool:
    return bool(MACHINE_PATHS.search(line)) or any(host in line for host in REGISTRIES)


@pytest.mark.parametrize(
    ("source", "caught"),
    [
        ("print(1)", ["1: print"]),
        ("def main():\n    print(1)", []),
        ("from pickle import load", ["1: from pickle"]),
        ("import dill", ["1: import dill"]),
        ("import pickle\npickle.load(file)", ["2: pickle.load"]),
        ("import pickle\npickle.Unpickler(file).load()", ["2: pickle.Unpickler"]),
        ("class Some(pickle.Unpickler):\n    pass", ["1: Unpickler"]),
        ("class Some(pickle.Unpickler):\n    def find_class(self, module, name): ...", []),
        ("torch.load(path)", ["1: torch.load without weights_only=True"]),
        ("torch.load(path, weights_only=False)", ["1: torch.load without weights_only=True"]),
        ("np.load(path, allow_pickle=True)", ["1: allow_pickle"]),
        ("torch.load(path, weights_only=True)\nconsole.print(1)\nnet.eval()", []),
    ],
)
def test_the_offences_are_recognised(source, caught):
    assert offences(source) == caught


def test_long_functions_are_recognised():
    body = "\n".join(f"    x = {i}" for i in range(LONGEST_FUNCTION))
    assert too_long(f'def f():\n    """Said\n    at length."""\n\n    # why\n{body}\n') == []
    assert too_long(f"def f():\n{body}\n    return x\n") == ["f"]


def test_machine_paths_and_registries_are_recognised():
    hits = ["see /" + "root/x", "(/" + "work/main)", "https://" + REGISTRIES[0] + "/simple"]
    assert all(map(names_a_machine, hits))
    assert not any(map(names_a_machine, ["/".join(["docs", "work", "x"]), "a network / root", "https://x.org/roots/"]))
