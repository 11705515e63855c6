#!/usr/bin/env python3
"""Plays the simulation, then plants the bugs of bugs.toml in the core, one at a time: each has to be found.

Builds in a copy of the workspace under $CARGO_TARGET_DIR/planted (target/planted), so that the sources are never touched.
A bug is found by a broken rule, a panic, an overflow, or a seed that never ends. Prints a line per bug and last one JSON
object. Fails when the core as it is breaks a rule, a fault was never injected or a state never reached in a full run, a bug
stays hidden, or one cannot be planted any more.

With --seed, replays one seed instead and prints its story: of the core as it is, or with --bug of one with that bug.
"""

import argparse
import concurrent.futures
import dataclasses
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import time
import tomllib

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUGS = pathlib.Path(__file__).with_name("bugs.toml")
# As many seeds reach every state and inject every fault, as measured; fewer may miss one by chance.
FULL = 3000
# A bug that is not found after so long is taken for hidden. All seeds take a fifth of it on a busy machine.
PATIENCE_SECONDS = 240.0


@dataclasses.dataclass(frozen=True)
class Bug:
    name: str
    blind: bool
    what: str
    file: str
    find: str
    replace: str

    def planted(self, source):
        """The source with this bug in it. Runs of white space in `find` match any other, so that formatting may change."""
        words = re.split(r"\s+", self.find.strip())
        places = list(re.finditer(r"\s+".join(map(re.escape, words)), source))
        if len(places) != 1:
            raise SystemExit(f"{self.name}: its snippet occurs {len(places)} times in {self.file}, not once:\n{self.find}")
        at = places[0]
        return source[: at.start()] + self.replace + source[at.end() :]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=FULL)
    parser.add_argument("--seed", type=int, help="replay this one")
    parser.add_argument("--message", help="of the story, only what names this message")
    parser.add_argument("--bug", action="append", default=[], help="only this one (again for more)")
    parser.add_argument("--table", type=pathlib.Path, help="also write the table of bugs into this document, between its marks")
    return parser.parse_args()


def bugs(names):
    every = [Bug(**entry) for entry in tomllib.loads(BUGS.read_text())["bug"]]
    if len({bug.name for bug in every}) != len(every):
        raise SystemExit(f"{BUGS.name}: two bugs have one name")
    if unknown := set(names) - {bug.name for bug in every}:
        raise SystemExit(f"there is no bug {', '.join(sorted(unknown))}")
    return [bug for bug in every if not names or bug.name in names]


class Workshop:
    """A copy of the workspace to plant bugs in, and what is built from it."""

    def __init__(self):
        self.home = (ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "planted").resolve()
        self.copy = self.home / "workspace"
        self.programs = self.home / "programs"
        self.programs.mkdir(parents=True, exist_ok=True)
        self.mirror()

    def mirror(self):
        """Makes the copy like the sources. What is the same stays untouched, so that it is not built again."""
        members = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["members"]
        wanted = {pathlib.Path(name) for name in ["Cargo.toml", "Cargo.lock", "rust-toolchain.toml"]}
        for member in members:
            for folder, folders, files in os.walk(ROOT / member):
                folders[:] = [name for name in folders if name not in ("target", "__pycache__", ".venv")]
                wanted |= {(pathlib.Path(folder) / name).relative_to(ROOT) for name in files}
        for path in wanted:
            write(self.copy / path, (ROOT / path).read_bytes())
        for folder, _, files in os.walk(self.copy):
            for name in files:
                path = pathlib.Path(folder) / name
                if path.relative_to(self.copy) not in wanted:
                    path.unlink()

    def build(self, bug=None):
        """Builds the simulation, with this bug in the core; gives the program."""
        target = self.copy / bug.file if bug else None
        before = target.read_text() if target else None
        try:
            if target:
                target.write_text(bug.planted(before))
            command = ["cargo", "build", "--quiet", "--profile", "sim", "-p", "asya-tests", "--bin", "simulate"]
            environment = os.environ | {"CARGO_TARGET_DIR": str(self.home / "build"), "CARGO_INCREMENTAL": "1"}
            for _ in range(2):
                built = subprocess.run(command, cwd=self.copy, env=environment, capture_output=True, text=True)
                # A compiler that was killed, for memory say, finds no error.
                if built.returncode == 0 or "error" in built.stderr:
                    break
        finally:
            if target:
                target.write_text(before)
        if built.returncode != 0:
            raise SystemExit(f"{bug.name if bug else 'the core as it is'} does not build ({built.returncode}):\n{built.stderr}")
        program = self.programs / (bug.name if bug else "none")
        shutil.copy2(self.home / "build" / "sim" / "simulate", program)
        return program


def write(path, content):
    if not path.exists() or path.read_bytes() != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def play(program, seeds, *flags):
    """Plays seeds; gives the lines it printed and its report, which is None when it came to none."""
    command = [program, "--seeds", str(seeds), *flags]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        return ["it took too long"], None
    *lines, last = ran.stdout.splitlines() or [""]
    try:
        return lines, json.loads(last)
    except json.JSONDecodeError:
        return [*lines, last, *ran.stderr.splitlines()[-5:]], None


def check_core(lines, report, seeds):
    """What is wrong with the run of the core as it is."""
    if report is None:
        return ["the simulation gave no report", *lines]
    wrong = list(lines) if report["violations"] or report["states_reached"] < report["states"] else []
    if seeds >= FULL:
        wrong += [f"fault never injected: {fault}" for fault, times in report["faults"].items() if times == 0]
    elif not report["violations"]:
        wrong = []
    return wrong


def find(bug, program, seeds):
    """Prints whether the bug is found; gives the seed that finds it."""
    began = time.monotonic()
    lines, report = play(program, seeds, "--first")
    seed = report and report["first_violation"]
    kind = "blind" if bug.blind else ""
    how = next((line for line in lines if line.startswith(f"seed {seed}: ")), " / ".join(lines))
    verdict = f"seed {seed:>5}" if seed else "NOT FOUND "
    print(f"{bug.name:<32} {kind:<5} {verdict}  {time.monotonic() - began:5.1f} s  {how.partition(': ')[2][:160]}", flush=True)
    return seed


def write_table(document, chosen, found):
    """Replaces what stands between the marks of a document by a table of the bugs and the seeds that found them."""
    rows = [f"| `{bug.name}` | {bug.what} | {'blind' if bug.blind else ''} | {seed or 'never'} |" for bug, seed in zip(chosen, found)]
    table = "\n".join(["| Bug | What it does | Chosen | First seed |", "|---|---|---|---|", *rows])
    before, mark, rest = document.read_text().partition("<!-- measured -->\n")
    _, end, after = rest.partition("<!-- end -->")
    if not mark or not end:
        raise SystemExit(f"{document} has no marks for the table")
    document.write_text(f"{before}{mark}{table}\n{end}{after}")


def main():
    given = arguments()
    chosen = bugs(given.bug)
    for bug in chosen:
        bug.planted((ROOT / bug.file).read_text())
    workshop = Workshop()
    if given.seed is not None:
        program = workshop.build(chosen[0] if given.bug else None)
        command = [program, "--seed", str(given.seed), *(["--message", given.message] if given.message else [])]
        sys.exit(subprocess.run(command).returncode)

    began = time.monotonic()
    # One plays while the next is built.
    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as pool:
        core = pool.submit(play, workshop.build(), given.seeds)
        hunts = [pool.submit(find, bug, workshop.build(bug), given.seeds) for bug in chosen]
        (lines, report), found = core.result(), [hunt.result() for hunt in hunts]
    if given.table:
        write_table(given.table, chosen, found)
    wrong = check_core(lines, report, given.seeds)
    print("\n".join(wrong), end="\n" if wrong else "")
    caught = [seed for seed in found if seed]
    report = (report or {}) | {
        "planted": len(chosen),
        "caught": len(caught),
        "blind": sum(bug.blind for bug in chosen),
        "blind_caught": sum(bool(seed) for bug, seed in zip(chosen, found) if bug.blind),
        "seeds_to_catch": statistics.median(caught) if caught else None,
        "seeds_to_catch_most": max(caught, default=None),
        "seconds": round(time.monotonic() - began),
    }
    print(json.dumps(report))
    sys.exit(1 if wrong or len(caught) < len(chosen) else 0)


if __name__ == "__main__":
    main()
