"""EMBEDDING.md, as the tests of it read it."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "fl_integration" / "EMBEDDING.md").read_text(encoding="utf-8")
EXAMPLES = ROOT / "fl_integration" / "embedding" / "examples"


def example(name: str) -> str:
    """The file of an example."""
    return (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
    """The code blocks of a kind, as it stands behind the three marks."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)


def lines(code: str, *names: str) -> int:
    """Lines of these functions and classes, or of all, without imports, texts, comments and blank ones."""
    tree = ast.parse(code)
    skipped = {
        number
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        for number in range(node.lineno, node.end_lineno + 1)
    }
    parts = [each for each in tree.body if not names or getattr(each, "name", "") in names]
    wanted = {number for each in parts for number in range(each.lineno, each.end_lineno + 1)}
    text = {number for number, line in enumerate(code.splitlines(), 1) if line.strip()}
    comments = {number for number, line in enumerate(code.splitlines(), 1) if line.lstrip().startswith("#")}
    return len(wanted & text - skipped - comments)
