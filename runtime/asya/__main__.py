"""`python3 asya-runtime.pyz`: the supervisor; with `worker …`, one of its workers.

Takes: the environment (see `--help`). Gives: the process's exit status. Blocks on: as long as the process lives.
On failure: settings that cannot be read are all told at once, with status 64.
"""

from __future__ import annotations

import os
import sys
from typing import List

EXIT_USAGE = 64

HELP = """\
The Asya runtime: runs a Python handler for the sidecar beside it.

  python3 asya-runtime.pyz

Environment:
  ASYA_HANDLER       module.function, module.Class.method, file.py:function or file.py:Class.method
  ASYA_SOCKET_DIR    folder of the sidecar's socket (/var/run/asya)
  ASYA_ACTOR_NAME    name that output is prefixed with (actor)
  ASYA_CONCURRENCY   calls at once in one worker: threads, or tasks of an async handler (1)
  ASYA_BATCH_SIZE    payloads in one call; the handler then takes and returns a list (0: one payload, no list)
  ASYA_GRACE_PERIOD  time between SIGTERM and SIGKILL: 30s, 1m30s, or a number of seconds (30s)
  ASYA_JSON          auto (orjson when it is installed), orjson or stdlib (auto)
"""


def main(arguments: List[str]) -> int:
    """Be the supervisor or a worker."""
    if arguments and arguments[0] == "worker":
        from asya._runtime import worker

        index, generation, parent = map(int, arguments[1:4])
        return worker.main(index, generation, parent)
    if arguments and arguments[0] in ("-h", "--help"):
        sys.stdout.write(HELP)
        return 0
    if arguments and arguments[0] == "--version":
        import asya

        sys.stdout.write(f"asya-runtime {asya.__version__}\n")
        return 0
    if arguments:
        sys.stderr.write(f"asya: unknown argument {arguments[0]!r}; --help says what there is\n")
        return EXIT_USAGE
    from asya._runtime.settings import SettingsError, read
    from asya._runtime.supervisor import Supervisor

    try:
        settings = read(os.environ)
    except SettingsError as error:
        sys.stderr.write("".join(f"asya: {line}\n" for line in str(error).split("\n")))
        return EXIT_USAGE
    # The zipapp itself, or the package when it runs from its sources.
    program = os.path.abspath(sys.argv[0])
    return Supervisor(settings, [sys.executable, program], os.environ).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
