import gc
import os

# Nothing here may reach a hub, and one thread is faster than two for tiny models.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import pytest
import torch
import transformers

torch.set_num_threads(1)
transformers.logging.disable_progress_bar()
transformers.logging.set_verbosity_error()


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def pytest_collection_finish():
    """What is imported by now stays: the garbage collector need not look at it again, as it does after a training."""
    gc.collect()
    gc.freeze()
