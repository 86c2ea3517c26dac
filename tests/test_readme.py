"""Every command in README.md and documentation/ is understood by the real parser, and every relative link leads somewhere."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("README.md"), *sorted((ROOT / "documentation").rglob("*.md"))]
FENCE = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)")
MODULES = {"import": "import_model"}  # where a command's name is a word of Python
PIPES = {"|", "||", "&&", ";", "&", ">", ">>", "<", "2>", "2>&1", "#"}


def _commands(text: str) -> list[list[str]]:
    """The `ldseg_...` command lines of all code blocks, as argument lists; continued lines joined, comments and pipes cut."""
    found = []
    for block in FENCE.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.strip().removeprefix("$ "), comments=True) if "ldseg_" in line else []
            while words and re.fullmatch(r"\w+=.*", words[0]):  # NAME=value before the command
                words.pop(0)
            if words and re.fullmatch(r"ldseg_[a-z_]+", words[0]):
                end = next((i for i, word in enumerate(words) if word in PIPES), len(words))
                found.append(words[:end])
    return found


def _targets(text: str) -> list[str]:
    """Relative link targets outside code blocks, without their fragment."""
    links = [link.split("#")[0] for link in LINK.findall(FENCE.sub("", text))]
    return [unquote(link) for link in links if link and not re.match(r"[a-z]+:", link)]


def _all_commands() -> list[tuple[str, list[str]]]:
    return [(page.relative_to(ROOT).as_posix(), words) for page in PAGES for words in _commands(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize(("page", "words"), _all_commands(), ids=lambda v: v if isinstance(v, str) else " ".join(v))
def test_command_parses(page: str, words: list[str]) -> None:
    name = words[0].removeprefix("ldseg_")
    module = importlib.import_module(f"ldseg_auto.cli.{MODULES.get(name, name)}")
    try:
        module.build().parse_args(words[1:])
    except SystemExit as stop:  # --help and --version end with 0
        assert stop.code in (0, None), f"{page}: {' '.join(words)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_relative_links_exist(page: Path) -> None:
    missing = [target for target in _targets(page.read_text(encoding="utf-8")) if not (page.parent / target).exists()]
    assert missing == []


def test_readme_shows_the_three_commands() -> None:
    shown = [words[0] for words in _commands((ROOT / "README.md").read_text(encoding="utf-8"))]
    assert {"ldseg_plan_and_preprocess", "ldseg_train", "ldseg_predict"} <= set(shown)


def test_commands_are_found_in_a_page() -> None:
    page = "ldseg_not_in_a_block 1\n```bash\n$ A=1 ldseg_train 4 0 \\\n  --epochs 5 | tee log  # note\nmake demo\n```\n"
    assert _commands(page) == [["ldseg_train", "4", "0", "--epochs", "5"]]


def test_links_are_found_in_a_page() -> None:
    page = "[a](b%20c.md#part) ![p](x.png) [web](https://x.org) [top](#top)\n```\n[no](code.md)\n```\n"
    assert _targets(page) == ["b c.md", "x.png"]
