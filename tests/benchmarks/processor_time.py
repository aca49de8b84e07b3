"""Measure by the processor's time what reads the clock by itself, as training does.

    python -m tests.benchmarks.processor_time MODULE [ARGUMENT ...]

The seconds in which a processor works for a process hardly change when other work shares the machine. The command runs
a module that way.
"""

from __future__ import annotations

import runpy
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock


@contextmanager
def processor_time() -> Iterator[None]:
    """Inside, `time.perf_counter` is the time that processors have worked for this process."""
    with mock.patch.object(time, "perf_counter", time.process_time):
        yield


def main() -> None:
    del sys.argv[0]
    with processor_time():
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
