"""`make test-transformers`: do our codecs pass what transformers' own EnCodec passes of transformers' common tests?"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

import pytest

from tests.transformers_suite.fetch import common_tests

SUITE = Path(__file__).with_name("suite.py")
# What native fails and ours must pass: with equal values in tuples and dicts.
BEYOND_NATIVE = {"Model": {"test_model_outputs_equivalence"}, "Mono": set(), "Stereo": set()}


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
        wanted = outcomes.passed(f"{kind}_native") | BEYOND_NATIVE[kind]
        short = [] if whose == "native" else sorted(wanted - outcomes.passed(owner))
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
