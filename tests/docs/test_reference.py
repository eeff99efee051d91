"""The reference pages say what the code says."""

import ast
import subprocess
import sys
from pathlib import Path

from model_store import errors as store_errors
from service import errors as service_errors
from service.error_codes import ERROR_CODES
from service.errors import IMAGE_STATUS

ROOT = Path(__file__).parents[2]


def test_the_generated_pages_are_up_to_date() -> None:
    """If this fails, run `make reference` and commit the pages."""
    done = subprocess.run(
        [sys.executable, "docs/generate_reference.py", "--check"],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_examples_in_the_help_of_commands_keep_their_lines() -> None:
    """Click needs the character that `\\b` stands for; a raw docstring has a backslash."""
    assert "\\b" not in (ROOT / "docs/reference/cli.md").read_text()


def test_every_error_code_in_the_code_is_documented_and_no_other() -> None:
    used = {
        keyword.value.value
        for path in (ROOT / "service").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "code" and isinstance(keyword.value, ast.Constant)
    }
    for module in (service_errors, store_errors):
        for value in vars(module).values():
            if isinstance(value, type):
                used |= {
                    vars(value)[name] for name in ("code", "default_code") if name in vars(value)
                }
    never_sent = {"ok", "client_closed_request", "bad_request", "conflict", "image_error"}
    literals = {
        node.value
        for path in (ROOT / "service").rglob("*.py")
        if path.name != "error_codes.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert {code for code in used if isinstance(code, str)} - never_sent <= set(ERROR_CODES)
    image_codes = {"not_an_image", "truncated_image", "corrupt_image"}
    assert set(ERROR_CODES) - literals - used <= image_codes


def test_an_image_errors_status_is_the_documented_one() -> None:
    for error in vars(store_errors).values():
        if isinstance(error, type) and issubclass(error, store_errors.ImageError):
            code = vars(error).get("code")
            if code in ERROR_CODES:
                assert ERROR_CODES[code].status == IMAGE_STATUS.get(error, 400)


def test_docs_links_resolve_and_the_site_builds(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env={"PATH": "", "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_lines_of_the_docs_have_at_most_100_columns() -> None:
    """Tables, links, code and reports are not wrapped."""
    long = []
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        text = path.read_text()
        if path.name == "report.md":
            continue
        fenced = False
        for number, line in enumerate(text.splitlines(), 1):
            fenced ^= line.startswith("```")
            if len(line) > 100 and not fenced and not line.startswith(("|", "![", "<")):
                long.append(f"{path.relative_to(ROOT)}:{number}")
    assert long == []
