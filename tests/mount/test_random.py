"""The mount against a plain directory: the same random operations, hydration racing with them.

Hypothesis chooses and shrinks; each failure that it found is a test with a name elsewhere.
"""

import os
import random
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.mount.workload import Workload
from tests.support.compare import Times, assert_same, times
from tests.support.programs import exported
from tests.support.trees import make_tree

# of one machine each; the mount of a machine takes about a second, a step some milliseconds
EXAMPLES, STEPS = 6, 150
LONG_EXAMPLES, LONG_STEPS = 150, 1000


class Machine(RuleBasedStateMachine):
    """One mount with everything absent, and a plain copy of what it exports."""

    base: Path  # where the trees go

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()
        self._hydrating = False

    @initialize(seed=st.integers(0, 1000), lazy=st.integers(0, STEPS))
    def begin(self, seed: int, lazy: int) -> None:
        """The background begins to bring what the operations use after `lazy` of them."""
        self._lazy = lazy
        self._base = Path(self._stack.enter_context(tempfile.TemporaryDirectory(dir=Machine.base)))
        make_tree(self._base / "source", seed)
        make_tree(self._base / "plain", seed)
        self._original, self._before = times(self._base / "source"), times(self._base / "plain")
        self._start = time.time_ns() - 20_000_000  # file times lag the clock by up to a tick
        self._pair = self._stack.enter_context(exported(self._base, "--warm"))
        self.work = Workload(self._pair.path, self._base / "plain", random.Random(0))

    def operate(self, name: str, choose: random.Random) -> None:
        if sum(self.work.done.values()) >= self._lazy and not self._hydrating:
            self._pair.mount.ask("hydrate")
            self._hydrating = True
        self.work.choose = choose
        getattr(self.work, name)()

    def teardown(self) -> None:
        try:
            if hasattr(self, "work"):
                self.work.finish()
                self._end()
        finally:
            self._stack.close()

    def _end(self) -> None:
        """Whole, left, and as a plain directory it is still the same."""
        pair, plain = self._pair, self._base / "plain"
        pair.mount.hydrate()
        assert_same(pair.path, plain)
        self._assert_times(times(pair.path), times(plain))
        assert pair.mount.ask("verify")["report"]["differences"] == []
        pair.mount.ask("detach")
        pair.server.stop()
        assert_same(pair.path, plain)
        pair.mount.unmount()
        assert_same(pair.mount.store / "data", plain)
        assert not os.listdir(pair.mount.store / "orphans")

    def _assert_times(self, mount: dict[bytes, Times], plain: dict[bytes, Times]) -> None:
        """What changed a time on the plain directory changed it on the mount, and nothing else did."""
        ctimes = {seen.ctime_ns for seen in self._before.values()}
        source_ctimes = {seen.ctime_ns for seen in self._original.values()}
        for path, expected in plain.items():
            seen = mount[path]
            if self._start <= expected.mtime_ns < self._start + 10**12:
                assert self._start <= seen.mtime_ns < self._start + 10**12, path
            else:
                assert seen.mtime_ns == expected.mtime_ns, path
            assert (expected.ctime_ns in ctimes) == (seen.ctime_ns in source_ctimes), path


def _rule(name: str) -> Callable[..., None]:
    """The operation `name` of a workload, with everything in it chosen by Hypothesis."""

    def operation(self: Machine, choose: random.Random) -> None:
        self.operate(name, choose)

    operation.__name__ = name
    return rule(choose=st.randoms(use_true_random=False))(operation)


Operations = type(
    "Operations",
    (Machine,),
    {f"{name}_{number}": _rule(name) for weight, name in Workload.OPERATIONS for number in range(-(-weight // 4))},
)


def test_random_operations_cannot_tell_the_mount_from_a_directory(tmp_path: Path, torture: bool) -> None:
    Machine.base = tmp_path
    run_state_machine_as_test(
        Operations,
        settings=settings(
            max_examples=LONG_EXAMPLES if torture else EXAMPLES,
            stateful_step_count=LONG_STEPS if torture else STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
