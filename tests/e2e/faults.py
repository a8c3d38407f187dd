"""A rank that dies or stops ends the job, soon, with its name; Ctrl-C of launch/run saves and stops, whatever it interrupts.

  faults.py [--full]     --full: either rank, SIGTERM, and Ctrl-C at 30 random moments instead of 3
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import (ENVIRONMENT, RUN, documents, make_model, processes, ranks_of, read_jsonl, wait_until, write_jsonl, write_recipe)

TIMEOUT = 5  # communication.timeout_seconds


def steps_done(output):
    return len(read_jsonl(output / "metrics.jsonl")) if (output / "metrics.jsonl").exists() else 0


class Job:
    """Two ranks under launch/run, some steps into a long run."""

    def __init__(self, root, name):
        self.output = root / name
        self.recipe = write_recipe(root / f"{name}.json", root / "model", root / "train.jsonl", self.output,
                                   train={"steps": 100000, "sequences_per_step": 8}, checkpoint={"every": 0},
                                   communication={"timeout_seconds": TIMEOUT})
        self.log = root / f"{name}.log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen([RUN, "-n", "2", "--mpi", "--bind-to none --oversubscribe", "--", "train", str(self.recipe)],
                                            env=ENVIRONMENT, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
                                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # ignored where a shell's & began us
        wait_until(lambda: steps_done(self.output) >= 5 or self.process.poll() is not None, 60, "no steps are made")
        assert self.process.poll() is None, self.text()
        self.ranks = ranks_of(self.recipe)
        assert set(self.ranks) == {0, 1}, self.ranks

    def text(self):
        return self.log.read_text(errors="replace")

    def end(self, limit):
        """Seconds until the job ended, and its exit code; no process of it may be left."""
        begin = time.monotonic()
        code = self.process.wait(limit + 60)
        seconds = time.monotonic() - begin
        assert seconds <= limit, f"took {seconds:.1f} s, at most {limit} were expected:\n{self.text()}"
        wait_until(lambda: not processes(self.recipe), 4, f"processes are left:\n{self.text()}")
        return seconds, code

    def expect(self, *patterns):
        for words in patterns:
            assert words in self.text(), f"'{words}' is not in\n{self.text()}"


def killed(root, rank):
    job = Job(root, f"kill{rank}")
    os.kill(job.ranks[rank], signal.SIGKILL)
    seconds, code = job.end(10)
    assert code != 0
    job.expect(f"launch/run: rank {rank} ", "signal 9")
    print(f"kill -9 of rank {rank}: ended after {seconds:.1f} s with exit code {code}: {job.text().strip().splitlines()[-1]}", flush=True)


def stopped(root, rank):
    job = Job(root, f"stop{rank}")
    os.kill(job.ranks[rank], signal.SIGSTOP)
    begin = time.monotonic()
    wait_until(lambda: "did not complete within" in job.text() or job.process.poll() is not None, TIMEOUT + 5, "no CommError:\n" + job.text())
    told = time.monotonic() - begin
    seconds, code = job.end(TIMEOUT + 5 - told + 5)
    assert code != 0
    job.expect(f"rank {rank} does not answer (stopped or dead)", "launch/run: ")
    print(f"SIGSTOP of rank {rank}: CommError after {told:.1f} s (deadline {TIMEOUT} s), all gone after {told + seconds:.1f} s, exit code {code}: "
          f"{job.text().strip().splitlines()[-1]}", flush=True)


def interrupted(root, name, which, delay=0.0):
    job = Job(root, f"interrupt-{name}")
    time.sleep(delay)
    os.kill(job.process.pid, which)  # what a terminal's Ctrl-C does to launch/run
    seconds, code = job.end(20)
    assert code == 0, job.text()
    job.expect("save and stop", "stopped as asked")
    steps = steps_done(job.output)
    assert (job.output / "checkpoints" / f"step-{steps:08d}" / "manifest.json").exists(), job.text()
    print(f"{name} to launch/run: saved step {steps} and stopped after {seconds:.1f} s, exit code {code}", flush=True)
    shutil.rmtree(job.output)


def main():
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_model(root / "model")
        write_jsonl(root / "train.jsonl", documents(100, 20, 120, seed=5))
        try:
            full = "--full" in sys.argv
            for rank in (0, 1) if full else (1,):
                killed(root, rank)
            for rank in (0, 1) if full else (0,):
                stopped(root, rank)
            moments = random.Random(11)
            for i in range(30 if full else 3):
                interrupted(root, f"Ctrl-C-{i}", signal.SIGINT, moments.uniform(0, 0.5))
            if full:
                interrupted(root, "SIGTERM", signal.SIGTERM)
        finally:
            for process in processes(folder):
                os.kill(process, signal.SIGKILL)
    return 0


if __name__ == "__main__":
    sys.exit(main())
