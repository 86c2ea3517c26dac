"""The commands write the report, say where it is and which cases stand out, and keep its pictures when they plan again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ldseg_auto.cli import common, plan, plan_and_preprocess
from ldseg_auto.data.image_io import read_image, write_image


def test_both_commands_write_it(make_dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_dataset(tmp_path / "raw", n_cases=6, shape=(6, 20, 16))
    odd = folder / "imagesTr" / "toy_003_0000.nii.gz"
    write_image(odd, (1000 * read_image([odd]).array[0]).astype(np.float32), (3.0, 1.0, 1.0))
    roots = ["--raw", str(tmp_path / "raw"), "--preprocessed", str(tmp_path / "pre"), "-np", "1"]
    assert common.run(plan_and_preprocess.build(), plan_and_preprocess.work, ["-d", "1", *roots]) == 0
    said, path = capsys.readouterr().out, tmp_path / "pre" / "Dataset001_Toy" / "report.html"
    assert "stand out:\n  toy_003: intensity range of channel0 1" in said and str(path) in said
    page = path.read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") == 6 and "card of 8 GiB" in page
    assert common.run(plan.build(), plan.work, ["-d", "1", "--gpu-memory", "5", *roots]) == 0
    assert str(path) in capsys.readouterr().out
    page = path.read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") == 6 and "card of 5 GiB" in page
