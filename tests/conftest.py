"""What every test shares: no network, a throw-away cache of data sets, and the real data where it is at hand."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Any

import pytest

CACHE = tempfile.mkdtemp(prefix="reflora-datasets-")
atexit.register(shutil.rmtree, CACHE, ignore_errors=True)

# Read by the libraries when they are imported, so set before any test module is.
# One thread: the matrices are tiny, and threads of parallel test processes would wait for each other.
os.environ.update(
    OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_DATASETS_CACHE=CACHE, REFLORA_CACHE=CACHE
)

# What runs in the background of a shell ignores it, and so would all that is started here.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each of several processes half of the tests, in their order, and who is done half of what is left: files
    stay together, and with them the runs that their tests share. Another `--dist` than the usual one is as asked.
    """
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log) if config.getoption("dist") == "load" else None


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of published data sets beside (or in) the repository; skips where there is none."""
    root = Path(__file__).parents[1]
    for place in (root.parent, root):
        if (place / "shared" / "data").is_dir():
            return place / "shared" / "data"
    pytest.skip(f"no published data in {root.parent / 'shared' / 'data'}")


@pytest.fixture(scope="session")
def glue_data(shared_data: Path) -> Path:
    """GLUE as jsonl files, a folder for each task."""
    if not (shared_data / "glue").is_dir():
        pytest.skip(f"no GLUE in {shared_data}")
    return shared_data / "glue"
