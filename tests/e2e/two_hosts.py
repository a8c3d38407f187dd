"""Two hosts on a real network, made on one machine: two network namespaces joined by a veth pair, mpirun with a remote agent that
enters them, TCP between the ranks. Layouts over the network equal one rank; with the link cut in the middle of a step the job
ends with an error within the deadline + 10 s, leaves no process, and resumes.

Needs root and iproute2; otherwise it is skipped.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import BINARY, ENVIRONMENT, kill_all, largest_difference, losses, processes, read_jsonl, wait_until
from layouts import DEEPSEEK, Runs

NETWORK, HOSTS = "10.213.77.0/24", ["10.213.77.1", "10.213.77.2"]
DEADLINE = 5


def ip(*words, namespace=None):
    prefix = ["ip", "netns", "exec", namespace] if namespace else []
    subprocess.run([*prefix, "ip", *words], check=True, capture_output=True, text=True)


class TwoHosts:
    """The namespaces, gone at the end."""

    def __init__(self, root):
        self.names = [f"tessera{os.getpid()}{side}" for side in "ab"]
        self.links = [f"ts{os.getpid() % 100000}{side}" for side in "ab"]
        self.agent = root / "agent"
        self.agent.write_text("#!/bin/sh\nhost=$1\nshift\ncase $host in\n" + "".join(
            f"  {host}) namespace={name} ;;\n" for host, name in zip(HOSTS, self.names)) + "esac\nexec ip netns exec $namespace unshare --uts sh -c \"hostname $namespace; $*\"\n")
        self.agent.chmod(0o755)

    def __enter__(self):
        for name in self.names:
            ip("netns", "add", name)
        ip("link", "add", self.links[0], "type", "veth", "peer", "name", self.links[1])
        for name, link, host in zip(self.names, self.links, HOSTS):
            ip("link", "set", link, "netns", name)
            ip("addr", "add", f"{host}/24", "dev", link, namespace=name)
            ip("link", "set", "lo", "up", namespace=name)
        self.set_link("up")
        return self

    def __exit__(self, *_):
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)

    def set_link(self, state):
        for name, link in zip(self.names, self.links):
            ip("link", "set", link, state, namespace=name)

    def command(self, ranks, *words):
        hosts = ",".join(f"{host}:{ranks // 2}" for host in HOSTS)
        # A hostname of its own each: Open MPI 4.1 crashes when two nodes have the same.
        enter = ["ip", "netns", "exec", self.names[0], "unshare", "--uts", "sh", "-c", 'hostname "$0" && exec mpirun "$@"', self.names[0]]
        return [*enter, "--allow-run-as-root", "-np", str(ranks), "-H", hosts, "--bind-to", "none",
                "--mca", "mpi_yield_when_idle", "1", "--mca", "plm_rsh_agent", str(self.agent), "--mca", "oob_tcp_if_include", NETWORK,
                "--mca", "btl", "tcp,self", "--mca", "btl_tcp_if_include", NETWORK, "-x", "OMP_NUM_THREADS",
                "--mca", "oob_tcp_keepalive_time", "3", "--mca", "oob_tcp_keepalive_intvl", "1", "--mca", "oob_tcp_keepalive_probes", "3",
                *map(str, words)]


def trained(hosts, runs, label, ranks, *layout, **changes):
    recipe, output = runs.recipe(label, *layout, **changes)
    try:
        result = subprocess.run(hosts.command(ranks, BINARY, "--quiet", "train", recipe), env=ENVIRONMENT, capture_output=True, text=True, timeout=240)
    except subprocess.TimeoutExpired:
        kill_all(recipe)
        raise
    assert result.returncode == 0, result.stderr[-3000:]
    return output


def cut_link(hosts, runs, reference):
    recipe, output = runs.recipe("cut", 2, 1, "1f1b", deadline=DEADLINE, every=2)
    job = subprocess.Popen(hosts.command(2, BINARY, "train", recipe), env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    metrics = output / "metrics.jsonl"
    wait_until(lambda: job.poll() is not None or (metrics.exists() and len(read_jsonl(metrics)) >= 5), 60, "no steps are made")
    assert job.poll() is None, job.stdout.read()
    hosts.set_link("down")
    start = time.monotonic()
    try:
        text, _ = job.communicate(timeout=DEADLINE + 40)
    except subprocess.TimeoutExpired:
        kill_all(recipe)
        job.kill()
        raise AssertionError(f"the job still runs {DEADLINE + 40} s after the link was cut")
    seconds = time.monotonic() - start
    wait_until(lambda: not processes(recipe), 20, f"processes are left: {processes(recipe)}", pause=0.1)
    gone = time.monotonic() - start
    hosts.set_link("up")
    assert job.returncode != 0 and ("does not answer" in text or "Remote daemon" in text), text[-3000:]
    print(f"link cut: ended with {job.returncode} after {seconds:.1f} s, nothing left after {gone:.1f} s (deadline {DEADLINE} s)")
    assert gone <= DEADLINE + 10
    trained(hosts, runs, "cut", 2, 2, 1, "1f1b")
    assert largest_difference(losses(output), reference) <= 1e-5
    print("resumed behind the cut: the curve goes on")


def main():
    if os.geteuid() != 0 or not shutil.which("ip") or subprocess.run(["ip", "netns", "list"], capture_output=True).returncode != 0:
        print("SKIPPED: network namespaces need root and iproute2")
        return 0
    with tempfile.TemporaryDirectory() as folder, TwoHosts(Path(folder)) as hosts:
        runs = Runs(Path(folder), "deepseek_v3", DEEPSEEK)
        reference = losses(runs.train("reference", 1, 1, 1, "1f1b"))
        for ranks, pp, ep, schedule, steps in ((2, 1, 2, "1f1b", 20), (2, 2, 1, "zb_h1", 20), (4, 2, 2, "dualpipe", 5)):
            curve = losses(trained(hosts, runs, f"np{ranks}-{schedule}-{ep}", ranks, pp, ep, schedule, steps=steps))
            difference = largest_difference(curve, reference[:steps])
            print(f"two hosts, np {ranks} pp {pp} ep {ep} {schedule}: curve {difference:.2e}", flush=True)
            assert difference <= 1e-5
        cut_link(hosts, runs, reference)
    return 0


if __name__ == "__main__":
    sys.exit(main())
