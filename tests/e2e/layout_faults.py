"""Faults in every kind of layout: a rank killed, stopped or out of step, a disk that fills up during a save in the background, data
that is gone, the network cut. Each job ends non-zero in time (a killed rank: 10 s; anything else: the deadline + 10 s), names the
culprit, leaves no process, and the same command resumes from the newest checkpoint onto the curve of a run that nothing happened to.

  layout_faults.py [--full] [--seed S] [--only WORD]      --full: every fault in every layout; --only: cases with WORD in their name
"""

import argparse
import errno
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import BINARY, ENVIRONMENT, RUN, largest_difference, losses, processes, ranks_of, wait_until
from layouts import DEEPSEEK, QWEN, Runs
from two_hosts import TwoHosts

DEADLINE, BOUND = 5, 1e-5
LIMIT = {"kill": 10}  # seconds from the fault to the end of the job; of the others DEADLINE + 10
SKIPPING = os.environ.get("TESSERA_SKIPPING_BINARY", str(Path(BINARY).parent / "bin" / "tessera_skipping"))

# name: (model, ranks, settings of the section `parallel`, operations that a rank may leave out)
LAYOUTS = {
    "dp2": (QWEN, 2, {}, ["all_reduce", "reduce_scatter"]),
    "dp2-zero2": (QWEN, 2, {"zero": 2}, ["reduce_scatter", "all_gather"]),
    "ep2": (DEEPSEEK, 2, {"ep": 2}, ["all_to_all", "all_reduce"]),
    "pp2-1f1b": (DEEPSEEK, 2, {"pp": 2}, ["exchange", "all_reduce"]),
    "pp2-dualpipe_v": (DEEPSEEK, 2, {"pp": 2, "pipeline_schedule": "dualpipe_v"}, ["exchange"]),
    "pp2-ep2-dualpipe": (DEEPSEEK, 4, {"pp": 2, "ep": 2, "pipeline_schedule": "dualpipe"}, ["all_to_all", "reduce_scatter"]),
    "ep4-two-hops": (DEEPSEEK, 4, {"ep": 4, "ranks_per_node": 2}, ["all_to_all"]),
}
QUICK = ["ep2 kill", "pp2-ep2-dualpipe stop", "ep4-two-hops skip all_to_all", "dp2-zero2 disk", "pp2-1f1b skip exchange", "dp2 few rows"]
CUT = ["dp2", "ep2", "pp2-ep2-dualpipe"]  # layouts whose link is cut


class Case:
    """One job in a folder of its own."""

    def __init__(self, root, name, layout, binary=BINARY, environment=None, hosts=None, **changes):
        model, self.ranks, parallel, _ = LAYOUTS[layout]
        self.name, self.layout, self.hosts, self.binary, self.environment = name, layout, hosts, binary, environment or {}
        root = root / name.replace(" ", "-")
        root.mkdir()
        runs = Runs(root, "run", model)
        self.data = runs.data
        self.recipe, self.output = runs.recipe("job", 1, 1, "1f1b", deadline=DEADLINE, every=3, background=True, changes={"parallel": parallel}, **changes)
        self.log = root / "log"

    def start(self, steps=100000, binary=None):
        words = ["train", str(self.recipe), f"train.steps={steps}"]
        if self.hosts:
            command = self.hosts.command(self.ranks, BINARY, *words)
        else:
            command = [RUN, "-n", str(self.ranks), "--mpi", "--bind-to none --oversubscribe", "--", *words]
        self.log.write_text("")
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(command, env={**ENVIRONMENT, "TESSERA_BINARY": binary or self.binary, **self.environment}, stdout=log,
                                            stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)

    def text(self):
        return self.log.read_text(errors="replace")

    def steps_done(self):
        metrics = self.output / "metrics.jsonl"
        return len(metrics.read_bytes().splitlines()) if metrics.exists() else 0

    def checkpoints(self):
        return sorted(p for p in (self.output / "checkpoints").glob("step-*") if (p / "manifest.json").exists())

    def run_until(self, moment):
        """Until there is a checkpoint and some steps more, and then for `moment` seconds."""
        wait_until(lambda: (self.checkpoints() and self.steps_done() >= 6) or self.process.poll() is not None, 90, "no steps are made")
        time.sleep(moment)
        assert self.process.poll() is None, "ended by itself:\n" + self.text()

    def end(self, limit, begin=None):
        """Seconds until the job has ended; then no process of it may be left."""
        begin = begin or time.monotonic()
        try:
            code = self.process.wait(limit + 30)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still runs after {limit + 30} s:\n{self.text()}") from None
        seconds = time.monotonic() - begin
        wait_until(lambda: not processes(self.recipe), 15, f"processes are left:\n{self.text()}")
        gone = time.monotonic() - begin
        assert code != 0, "ended with 0:\n" + self.text()
        assert gone <= limit, f"took {seconds:.1f} s, and {gone:.1f} s until no process was left, at most {limit} were expected:\n{self.text()}"
        return gone

    def finish(self):
        """Resumes with the same command, some steps further, and returns the curve."""
        newest = self.checkpoints()[-1] if self.checkpoints() else None
        self.environment = {}
        self.start(max(self.steps_done(), 6) + 4, BINARY)
        code = self.process.wait(240)
        assert code == 0, f"the resumed run ended with {code}:\n{self.text()}"
        assert newest is None or f"resuming from {newest}" in self.text(), self.text()
        return losses(self.output)

    def culprit(self, *patterns):
        for pattern in patterns:
            assert re.search(pattern, self.text()), f"nothing matches '{pattern}' in\n{self.text()}"


def kill(case, draw):
    case.start()
    case.run_until(draw.uniform(0, 1.5))
    rank = draw.randrange(case.ranks)
    os.kill(ranks_of(case.recipe)[rank], signal.SIGKILL)
    seconds = case.end(LIMIT["kill"])
    case.culprit(rf"launch/run: rank {rank} .*signal 9")
    return seconds, f"rank {rank}"


def stop(case, draw):
    case.start()
    case.run_until(draw.uniform(0, 1.5))
    rank = draw.randrange(case.ranks)
    os.kill(ranks_of(case.recipe)[rank], signal.SIGSTOP)
    seconds = case.end(DEADLINE + 10)
    case.culprit(rf"rank {rank} does not answer \(stopped or dead\)")
    return seconds, f"rank {rank}"


def skip(case, draw, operation):
    rank, when = draw.randrange(case.ranks), case.log.with_name("skip")
    case.binary, case.environment = SKIPPING, {"TESSERA_SKIP": operation, "TESSERA_SKIP_RANK": str(rank), "TESSERA_SKIP_WHEN": str(when)}
    case.start()
    case.run_until(draw.uniform(0, 1.5))
    when.touch()
    seconds = case.end(DEADLINE + 10)
    skipped = re.search(rf"test: skipping .*{operation} at (.*)", case.text())
    assert skipped, case.text()
    # An operation that a rank left out: the first error says which ranks called what, or that the rank has not arrived.
    error = re.search(r"tessera: rank \d+: error: .*", case.text())
    assert error, case.text()
    ranks = re.findall(r"ranks? ([\d, -]+\d|\d+)", error[0])
    assert any(rank in expand(words) for words in ranks), f"rank {rank} is not in: {error[0]}"
    return seconds, f"rank {rank} skipped {operation} at {skipped[1]}: {error[0][9:]}"


def expand(words):
    numbers = set()
    for part in words.split(","):
        first, _, last = part.strip().partition("-")
        numbers.update(range(int(first), int(last or first) + 1))
    return numbers


class SmallDisk:
    """A file system of its own for the checkpoints."""

    def __init__(self, folder):
        self.folder = folder

    def __enter__(self):
        self.folder.mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", self.folder], check=True, capture_output=True)
        return self

    def __exit__(self, *_):
        subprocess.run(["umount", "-l", self.folder], check=True)

    def fill(self, left):
        """All but `left` bytes, or all of it where the job is quicker."""
        size = max(shutil.disk_usage(self.folder).free - left, 0)
        try:
            with open(self.folder / "filler", "ab") as file:
                file.write(bytes(size))
        except OSError as error:
            assert error.errno == errno.ENOSPC, error


def disk(case, draw):
    with SmallDisk(case.output / "checkpoints") as small:
        case.start()
        case.run_until(draw.uniform(0, 0.5))
        begin, left = time.monotonic(), draw.randrange(4096, 100000)
        while case.process.poll() is None and time.monotonic() < begin + DEADLINE:  # deleting an old checkpoint makes room
            small.fill(left)
            time.sleep(0.01)
        seconds = case.end(DEADLINE + 10, begin)
        case.culprit(r"cannot write checkpoint .*step-\d+: rank \d+: cannot \w+ \S+: No space left on device; free some space")
        (small.folder / "filler").unlink()
        return seconds, re.search(r"rank \d+: cannot .*", case.text())[0], case.finish()


def no_data(case, draw):
    """The training data is empty."""
    rows = case.data.read_text()
    case.data.write_text("")
    case.start()
    seconds = case.end(DEADLINE + 10)
    case.culprit(rf"error: .*{re.escape(str(case.data))}")
    case.data.write_text(rows)
    return seconds, re.search(r"error: .*", case.text())[0]


def no_store_of_a_rank(case, draw):
    """One rank sees an empty file where the others see the token store."""
    store, rank = case.data.with_suffix(".h5"), draw.randrange(case.ranks)
    tokenizer = case.data.parent / "tokenizer"
    subprocess.run([BINARY, "--quiet", "prepare", "--input", case.data, "--model", tokenizer, "--output", store], check=True, env=ENVIRONMENT)
    case.recipe.write_text(case.recipe.read_text().replace(str(case.data), str(store)))
    empty, wrapper = store.with_name("empty"), store.with_name("wrapper")
    empty.write_bytes(b"")
    wrapper.write_text(f'#!/bin/sh\n[ "$OMPI_COMM_WORLD_RANK" = {rank} ] || exec {BINARY} "$@"\n'
                       f'exec unshare --mount sh -c \'mount --bind {empty} {store} && exec {BINARY} "$@"\' sh "$@"\n')
    wrapper.chmod(0o755)
    case.start(binary=str(wrapper))
    seconds = case.end(DEADLINE + 10)
    case.culprit(rf"rank {rank}: error: .*{re.escape(str(store))}")
    return seconds, re.search(rf"rank {rank}: error: .*", case.text())[0]


def cut(case, draw):
    case.start()
    case.run_until(draw.uniform(0, 1.5))
    case.hosts.set_link("down")
    try:
        seconds = case.end(DEADLINE + 10)
    finally:
        case.hosts.set_link("up")
    case.culprit(r"rank \d+ does not answer|Remote daemon|lost contact|lost connection")
    return seconds, (re.search(r"rank \d+ does not answer[^,;\n]*|.*(Remote daemon|lost c).*", case.text()) or [""])[0]


def few_rows(case, draw):
    """No fault: fewer rows than ranks, so that a rank's share of the data is empty."""
    case.start(8)
    assert case.process.wait(240) == 0, case.text()
    return 0.0, "trained as usual"


def all_cases(full):
    """(name, layout, what happens, changes of the recipe)"""
    cases = []
    for layout, (_, _, _, operations) in LAYOUTS.items():
        cases += [(f"{layout} kill", layout, kill, {}), (f"{layout} stop", layout, stop, {})]
        cases += [(f"{layout} skip {o}", layout, lambda case, draw, o=o: skip(case, draw, o), {}) for o in operations]
        cases += [(f"{layout} disk", layout, disk, {})]
    cases += [(f"{layout} cut", layout, cut, {}) for layout in CUT]
    cases += [("dp2 no data", "dp2", no_data, {}), ("ep2 no store of a rank", "ep2", no_store_of_a_rank, {}),
              ("dp2 few rows", "dp2", few_rows, {"rows": 1}), ("ep4-two-hops few rows", "ep4-two-hops", few_rows, {"rows": 2})]
    return cases if full else [c for c in cases if c[0] in QUICK]


def can_make_namespaces():
    probe = subprocess.run("unshare --net --mount sh -c 'mount -t tmpfs tmpfs /mnt && ip link'", shell=True, capture_output=True)
    return os.geteuid() == 0 and probe.returncode == 0


class Reference:
    """Curves of runs that nothing happens to, as long as they are needed."""

    def __init__(self, root):
        self.root, self.curves = root, {}

    def curve(self, layout, changes, steps):
        key = (layout, str(changes))
        if len(self.curves.get(key, [])) < steps:
            case = Case(self.root, f"reference {layout} {len(self.curves)} {steps}", layout, **changes)
            case.start(steps)
            assert case.process.wait(240) == 0, case.text()
            self.curves[key] = losses(case.output)
        return self.curves[key][:steps]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    draw, good, skipped, faults, results = random.Random(options.seed), 0, 0, 0, []
    cases = [c for c in all_cases(options.full or options.only) if options.only in c[0]]
    privileged = can_make_namespaces()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        try:
            for name, layout, fault, changes in cases:
                if fault in (disk, cut, no_store_of_a_rank) and not privileged:
                    print(f"{name}: SKIPPED: needs root, mount and iproute2", flush=True)
                    skipped += 1
                    continue
                faults += fault is not few_rows
                try:
                    if fault is cut:
                        (root / "hosts").mkdir(exist_ok=True)
                        with TwoHosts(root / "hosts") as hosts:
                            case = Case(root, name, layout, hosts=hosts, **changes)
                            seconds, told = fault(case, draw)
                            curve = case.finish()
                    else:
                        case = Case(root, name, layout, **changes)
                        seconds, told, *curve = fault(case, draw)
                        curve = curve[0] if curve else losses(case.output) if fault is few_rows else case.finish()
                    results.append((name, layout, changes, curve))
                    good += 1
                    print(f"{name}: ended after {seconds:.1f} s; {told}", flush=True)
                except (AssertionError, LookupError, OSError, subprocess.SubprocessError) as error:
                    print(f"{name}: FAILED: {error}", flush=True)
                    for process in processes(folder):
                        os.kill(process, signal.SIGKILL)
            reference, worst = Reference(root), 0.0
            for name, layout, changes, curve in sorted(results, key=lambda r: -len(r[3])):
                difference = largest_difference(curve, reference.curve(layout, changes, len(curve)))
                worst = max(worst, difference)
                if difference > BOUND:
                    good -= 1
                    print(f"{name}: FAILED: the resumed curve is {difference:.2e} off", flush=True)
        finally:
            for process in processes(folder):
                os.kill(process, signal.SIGKILL)
    print(f"{good} of {len(cases) - skipped} good, {faults} of them with a fault; {skipped} skipped; resumed curves within {worst:.1e}")
    return 1 if good < len(cases) - skipped else 0


if __name__ == "__main__":
    sys.exit(main())
