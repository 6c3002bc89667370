"""What the tests of training share."""

from __future__ import annotations

import datasets
import pytest


@pytest.fixture(scope="package", autouse=True)
def no_waiting():
    """datasets waits five seconds at the end of every pass over streamed Parquet."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0, raising=False)  # not in 4.0
        yield
