"""What the README tells a newcomer to run, run as written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


def block_after(heading: str) -> list[str]:
    """The commands of the first code block below a heading."""
    text = README.read_text(encoding="utf-8").split(f"\n{heading}\n", 1)[1]
    [block] = re.findall(r"```\n(.*?)```", text, re.DOTALL)[:1]
    return block.strip().splitlines()


@pytest.mark.slow
def test_three_commands_lead_from_dicom_to_an_evaluated_model(tmp_path):
    commands = block_after("## Your own scans")
    assert [command.split()[1] for command in commands] == ["prepare", "train", "evaluate"]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def run(command: str) -> str:
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    run("medp2p phantom scans --dicom")
    output = [run(command) for command in commands]
    assert re.search(r"prepared: \d+ cases", output[0])
    table = output[2]
    assert "MAE" in table
    assert (tmp_path / "run" / "model.safetensors").is_file()
    assert (tmp_path / "prepared" / "audit.html").is_file()
