"""What Triton compiles for a GPU, without one: its interpreter takes code that no compiler would."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def compiled_by(script: str, folder: Path) -> Any:
    """What a script prints as JSON, run without the interpreter; Triton keeps its code in the folder."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(folder / "triton")
    path = folder / "compile.py"  # Triton reads a kernel's source from a file
    path.write_text(script)
    run = subprocess.run([sys.executable, str(path)], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)
