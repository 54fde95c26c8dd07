"""The documents keep up with the code: what they name exists, and every direct dependency is explained."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "deploy" / "README.md"],
)
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors(path: Path) -> set[str]:
    """The anchors a forge makes of a document's headings."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.fixture(scope="module")
def tests() -> set[str]:
    found: set[str] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                found.add(node.name)
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_every_link_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", _FENCE.sub("", document.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (document.parent / path).resolve() if path else document
        assert found.exists(), f"{named(document)} links to {target}"
        if anchor:
            assert anchor in anchors(found), f"{named(document)} links to {target}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_every_test_a_document_names_exists(document: Path, tests: set[str]) -> None:
    words = set(re.findall(r"`(test_[a-z0-9_]+)`", document.read_text()))
    assert words <= tests, f"{named(document)} names {sorted(words - tests)}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_every_file_a_document_names_exists(document: Path) -> None:
    pattern = r"`((?:shared|keys|rack|mixer|deploy|tests|docs)/[\w./-]+)`"
    for path in re.findall(pattern, document.read_text()):
        assert (ROOT / path).exists(), f"{named(document)} names {path}"


@pytest.mark.parametrize("distribution", ["shared", "keys", "rack", "mixer"])
def test_every_direct_dependency_is_explained(distribution: str) -> None:
    declared = tomllib.loads((ROOT / distribution / "pyproject.toml").read_text())["project"]["dependencies"]
    explained = (ROOT / "docs" / "dependencies.md").read_text()
    for requirement in declared:
        name = re.split(r"[<>=!~ \[]", requirement)[0]
        assert re.search(rf"\b{re.escape(name)}\b", explained), (
            f"docs/dependencies.md does not mention {name}"
        )


def test_every_development_dependency_is_explained() -> None:
    explained = (ROOT / "docs" / "dependencies.md").read_text()
    for line in (ROOT / "requirements.in").read_text().splitlines():
        if line and not line.startswith(("#", "-e")):
            assert re.search(rf"(?<!\w){re.escape(line)}(?!\w)", explained), (
                f"docs/dependencies.md does not mention {line}"
            )


def test_the_security_model_covers_each_threat_with_a_test() -> None:
    text = (ROOT / "docs" / "security-model.md").read_text()
    table = text.split("## Attack, defence, test")[1].split("\n## ")[0]
    rows = [row for row in table.splitlines() if row.startswith("|") and not row.startswith(("|---", "| **"))]
    assert len(rows) > 40
    for row in rows[1:]:
        assert "`test_" in row.rsplit("|", 2)[1], f"no test is named: {row}"


def test_every_decision_is_in_the_index() -> None:
    folder = ROOT / "docs" / "adr"
    index = (folder / "README.md").read_text()
    for decision in folder.glob("[0-9]*.md"):
        text = decision.read_text()
        assert f"({decision.name})" in index
        assert text.startswith(f"# {decision.name[:4]}: ")
        assert all(f"\n## {part}\n" in text for part in ("Context", "Decision", "Consequences"))
