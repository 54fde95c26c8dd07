"""Every code by which the mixer refuses something about modules is on a page that says what it means."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from stagebox_mixer import modules

REFERENCE = Path(__file__).parents[4] / "docs" / "reference"
PAGES = {
    "ModuleError": ("modules.md", "module-signature.md"),
    "LifecycleRefused": ("control.md", "modules.md"),
}
"""By the error that carries the code: where people who get it look."""


def raised() -> Iterator[tuple[str, str]]:
    """Yield every error that is made with a code of its own, and the code."""
    for path in sorted(Path(modules.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Name(id=error), args=[ast.Constant(value=str(code)), *_]):
                    if error in PAGES:
                        yield error, code


RAISED = sorted(set(raised()))


@pytest.mark.parametrize(("error", "code"), RAISED)
def test_a_code_is_explained(error: str, code: str) -> None:
    assert any(f"`{code}`" in (REFERENCE / page).read_text() for page in PAGES[error])


def test_codes_are_found_where_they_are_made() -> None:
    assert {("ModuleError", "unknown_vendor"), ("ModuleError", "entry_unreadable")} <= set(RAISED)
    assert ("LifecycleRefused", "not_assigned") in RAISED
