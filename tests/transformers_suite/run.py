"""`make test-transformers`: do our models pass what transformers' own ones pass of transformers' common tests?

Codecs are compared with its EnCodec, language models and their processors with its MusicGen.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import pytest

from tests.transformers_suite.fetch import common_tests

SUITE = Path(__file__).with_name("suite.py")
# What native fails and ours must pass: with equal values in tuples and dicts.
BEYOND_NATIVE = {"Model": {"test_model_outputs_equivalence"}}
# What these classes need not pass, and why: beginnings of tests' names, and of classes'.
EXCEPTIONS = [
    (("test_model_base_model_prefix",), ("LM_",), "a codec language model has no model without heads in it"),
    (("test_batching_equivalence",), ("LM_musicgen", "LM_audiogen"), "codebook_losses are means over the batch"),
    (
        ("test_reverse_loading_mapping",),
        ("LM_musicgen", "LM_audiogen"),
        "native checkpoints are read under their names, ours written under ours: export_native is the way back",
    ),
    (
        ("test_model_forward_default_config_values",),
        ("LM_valle-factorized",),
        "it leaves out tie_word_embeddings=False, without which there is no such model",
    ),
    (
        ("test_call_arguments", "test_init_arguments_not_in_processor_kwargs"),
        ("Processor_",),
        "arguments are explicit and documented with their defaults, and not hidden in ProcessingKwargs",
    ),
    (
        ("test_subprocessor", "test_save_load_pretrained_additional", "test_processor_with_multiple_inputs")
        + ("test_kwargs_overrides", "test_overlapping", "test_structured_kwargs", "test_unstructured_kwargs"),
        ("Processor_",),
        "the codec and the tokenizer are loaded when they are needed, and are no attributes of transformers' kind",
    ),
]


class Outcomes:
    """A pytest plugin that notes what happened: class -> test -> passed, failed or skipped."""

    def __init__(self) -> None:
        self.by_class: dict[str, dict[str, str]] = defaultdict(dict)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        _, owner, test = report.nodeid.split("::")
        # Set-up, subtests, body and tear-down report one after the other.
        if (report.when == "call" or report.outcome != "passed") and self.by_class[owner].get(test) != "failed":
            self.by_class[owner][test] = report.outcome

    def passed(self, owner: str) -> set[str]:
        return {test for test, outcome in self.by_class.get(owner, {}).items() if outcome == "passed"}


def compare(outcomes: Outcomes) -> bool:
    """Print a line for each of our classes beside the native one; whether none falls short of it."""
    good = bool(outcomes.passed("Model_native"))
    print(f"\n{'':28}{'passed':>8}{'failed':>8}{'skipped':>8}   passed by native (or required), but not here")
    for owner, tests in outcomes.by_class.items():
        kind, _, whose = owner.partition("_")
        wanted = outcomes.passed(f"{kind}_native") | BEYOND_NATIVE.get(kind, set())
        excepted = tuple(test for tests, owners, _ in EXCEPTIONS if owner.startswith(owners) for test in tests)
        missing = [test for test in sorted(wanted - outcomes.passed(owner)) if not test.startswith(excepted)]
        short = [] if whose == "native" else missing
        counts = "".join(f"{list(tests.values()).count(kind):8}" for kind in ("passed", "failed", "skipped"))
        print(f"{owner:28}{counts}   {', '.join(short) or '-'}")
        good = good and not short
    return good


def main(arguments: list[str]) -> int:
    sys.path.insert(0, str(common_tests()))
    outcomes = Outcomes()
    # Their marks are not ours, hence no --strict-markers. Native fails some, so pytest's own verdict says nothing.
    options = ["-q", "--tb=short", "-o", "addopts=", "-p", "no:warnings", "-p", "no:cacheprovider"]
    pytest.main([str(SUITE), *options, *arguments], plugins=[outcomes])
    return 0 if outcomes.by_class and compare(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
