"""One of several processes that work on a mount which is killed under them.

`python -m tests.mount.worker MOUNT PLAIN SEED [mortal]` works on both trees alike (see `workload`) until its stdin
ends. PLAIN.steps is as many bytes long as it has done steps. At the end it prints a line of JSON: the paths that the
last call was to change, if the mount went away under it, else none. Only under a `mortal` mount that may happen: then
it maps no files, for with the mount a program loses what it has mapped, and its life.
"""

import json
import os
import random
import select
import sys
from pathlib import Path

from tests.mount.workload import Cut, Workload
from tests.support.compare import snapshot


def main() -> None:
    mount, plain = Path(sys.argv[1]), Path(sys.argv[2])
    work = Workload(mount, plain, random.Random(int(sys.argv[3])))
    if sys.argv[4:] == ["mortal"]:
        work.mortal = True
        work.operations = [(weight, call) for weight, call in work.operations if call != work.mmap]
    changed: list[bytes] = []
    with Path(f"{plain}.steps").open("ab", buffering=0) as steps:
        try:
            while not select.select([0], [], [], 0)[0]:
                work.run(1)
                steps.write(b".")
        except Cut as cut:
            before = snapshot(plain)
            cut.on_plain()
            after = snapshot(plain)
            changed = [path for path in before.keys() | after.keys() if before.get(path) != after.get(path)]
    work.finish()
    print(json.dumps([os.fsdecode(path) for path in changed]))


if __name__ == "__main__":
    main()
