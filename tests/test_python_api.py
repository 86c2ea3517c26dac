"""The example of documentation/python_api.md runs, and `import ldseg_auto` stays light."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import ldseg_auto

PAGE = Path(__file__).parents[1] / "documentation" / "python_api.md"


def test_the_example(
    make_dataset: Callable[..., Path], make_model: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = make_dataset(tmp_path / "raw", n_cases=2, shape=(6, 24, 20))
    model = make_model(tmp_path / "results", raw)
    (example,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    exec(example, {"np": np, "MODEL": model, "IMAGES": raw / "imagesTr", "OUTPUT": tmp_path / "out"})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("toy_000 (6, 24, 20) (3.0, 1.0, 1.0) ")
    assert lines[1].startswith("(3, 6, 24, 20) ")
    assert [line.split()[0] for line in lines[2:]] == ["toy_000", "toy_001"]
    assert (tmp_path / "out" / "toy_001.nii.gz").exists()


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, ldseg_auto; print(sorted({'torch', 'numpy', 'scipy', 'SimpleITK'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_public_names() -> None:
    from ldseg_auto.inference.predictor import Predictor

    assert ldseg_auto.Predictor is Predictor
    assert all(hasattr(ldseg_auto, name) for name in ldseg_auto.PUBLIC)
    with pytest.raises(AttributeError, match="module 'ldseg_auto' has no attribute 'nothing'"):
        _ = ldseg_auto.nothing
