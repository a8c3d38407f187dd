"""What the end-to-end tests share: a tiny byte-level model folder, recipes, running Tessera, reading what it wrote."""

import json
import os
import random
import signal
import struct
import subprocess
import time
from pathlib import Path

import numpy

ROOT = Path(__file__).resolve().parents[2]
BINARY = os.environ.get("TESSERA_BINARY", str(ROOT / "build" / "tessera"))
RUN = str(ROOT / "launch" / "run")
MPIRUN = ["mpirun", "--oversubscribe", "--bind-to", "none", "--mca", "mpi_yield_when_idle", "1"]
if os.geteuid() == 0:
    MPIRUN.append("--allow-run-as-root")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "TESSERA_BINARY": BINARY}
SPECIAL = ["<|end|>", "<|user|>", "<|bot|>"]  # ids 256 to 258
VOCABULARY = 256 + len(SPECIAL)
TEMPLATE = ("{% for m in messages %}{{ '<|' + ('bot' if m.role == 'assistant' else 'user') + '|>' + m.content + '<|end|>\\n' }}"
            "{% endfor %}{% if add_generation_prompt %}{{ '<|bot|>' }}{% endif %}")


class Checks:
    """Counts what is not as expected, and says all of it."""

    def __init__(self):
        self.failed = 0

    def expect(self, good, text):
        self.failed += not good
        print(f"{text}{'' if good else '  FAILED'}", flush=True)

    def finish(self):
        """The exit status."""
        print(f"{self.failed} failed")
        return 1 if self.failed else 0


def byte_characters():
    """GPT-2's character for each byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return {b: chr(b) if b in printable else chr(256 + others.index(b)) for b in range(256)}


def write_tokenizer(folder):
    vocabulary = {character: byte for byte, character in byte_characters().items()}
    added = [{"id": 256 + i, "content": content, "special": True, "normalized": False, "lstrip": False, "rstrip": False,
              "single_word": False} for i, content in enumerate(SPECIAL)]
    (folder / "tokenizer.json").write_text(json.dumps({
        "added_tokens": added, "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        "decoder": {"type": "ByteLevel"}, "model": {"type": "BPE", "vocab": vocabulary, "merges": []}}))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|end|>"}')
    (folder / "chat_template.jinja").write_text(TEMPLATE)


def safetensors_bytes(tensors):
    """tensors: name -> float32 array."""
    header, offset = {}, 0
    for name, value in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [offset, offset + value.nbytes]}
        offset += value.nbytes
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(v.astype("<f4").tobytes() for v in tensors.values())


def read_safetensors(path):
    data = Path(path).read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + length])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        begin, end = (8 + length + at for at in entry["data_offsets"])
        assert entry["dtype"] == "F32", entry
        tensors[name] = numpy.frombuffer(data[begin:end], "<f4").reshape(entry["shape"])
    return tensors


def make_model(folder, hidden=64, intermediate=112, layers=3, heads=4, kv_heads=2, seed=0):
    """A random Llama folder with grouped heads and a tokenizer of 259 bytes and special tokens."""
    folder = Path(folder)
    folder.mkdir(parents=True)
    write_tokenizer(folder)
    head_dim = hidden // heads
    (folder / "config.json").write_text(json.dumps({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": VOCABULARY, "hidden_size": hidden,
        "intermediate_size": intermediate, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "hidden_act": "silu",
        "tie_word_embeddings": False, "eos_token_id": 256, "dtype": "float32"}))
    generator = numpy.random.default_rng(seed)
    shapes = {"model.embed_tokens.weight": (VOCABULARY, hidden), "lm_head.weight": (VOCABULARY, hidden),
              "model.norm.weight": (hidden,)}
    for layer in range(layers):
        for name, shape in {"self_attn.q_proj": (heads * head_dim, hidden), "self_attn.k_proj": (kv_heads * head_dim, hidden),
                            "self_attn.v_proj": (kv_heads * head_dim, hidden), "self_attn.o_proj": (hidden, heads * head_dim),
                            "mlp.gate_proj": (intermediate, hidden), "mlp.up_proj": (intermediate, hidden),
                            "mlp.down_proj": (hidden, intermediate), "input_layernorm": (hidden,),
                            "post_attention_layernorm": (hidden,)}.items():
            shapes[f"model.layers.{layer}.{name}.weight"] = shape
    (folder / "model.safetensors").write_bytes(safetensors_bytes(
        {n: (generator.standard_normal(s) * 0.1 + (len(s) == 1)).astype("f4") for n, s in shapes.items()}))
    return folder


def documents(count, shortest, longest, seed):
    """Random tokens with a random loss mask."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        length = draw.randint(shortest, longest)
        mask = [0] + [draw.randint(0, 1) for _ in range(length - 2)] + [1]
        rows.append({"tokens": [draw.randrange(256) for _ in range(length)], "loss_mask": mask})
    return rows


def write_jsonl(path, rows):
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Path(path)


def read_jsonl(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def write_recipe(path, model_folder, train_file, output, /, **changes):
    """A recipe as JSON, which is YAML. `changes` are sections, merged key by key."""
    settings = {
        "name": "e2e", "task": "sft", "seed": 3, "output": str(output), "model": {"path": str(model_folder)},
        "data": {"train": [{"path": str(train_file)}], "sequence_length": 128, "packing": True},
        "optimizer": {"lr": 1e-3, "weight_decay": 0.1, "grad_clip": 1.0},
        "lr_schedule": {"name": "cosine", "warmup_steps": 3},
        "train": {"steps": 30, "sequences_per_step": 12, "sequences_per_microbatch": 2},
        "checkpoint": {"every": 5, "keep": 2},
        "log": {"tensorboard": False},
    }
    for key, value in changes.items():
        settings[key] = {**settings.get(key, {}), **value} if isinstance(value, dict) else value
    Path(path).write_text(json.dumps(settings, indent=1))
    return Path(path)


def command(*arguments, ranks=1, quiet=True):
    words = [BINARY, *(["--quiet"] if quiet else []), *(a if isinstance(a, bytes) else str(a) for a in arguments)]
    return [*MPIRUN, "-np", str(ranks), *words] if ranks > 1 else words


def run(*arguments, ranks=1, expect=0, timeout=300, quiet=True):
    """Runs to the end. `expect`: the exit code, or None for any."""
    result = subprocess.run(command(*arguments, ranks=ranks, quiet=quiet), capture_output=True, text=True, errors="replace",
                            env=ENVIRONMENT, timeout=timeout, stdin=subprocess.DEVNULL)
    if expect is not None and result.returncode != expect:
        raise AssertionError(f"{arguments} ended with {result.returncode}:\n{result.stderr[-4000:]}")
    return result


def processes(marker):
    """Ids of living processes (zombies apart) with `marker` in their command line, but for this one."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            state = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
        except (OSError, IndexError):
            continue
        if str(marker) in words and state != "Z":
            found.append(int(entry.name))
    return found


def ranks_of(marker):
    """Process id of each rank whose command line holds `marker`."""
    ranks = {}
    for process in processes(marker):
        try:
            variables = dict(v.split(b"=", 1) for v in Path(f"/proc/{process}/environ").read_bytes().split(b"\0") if b"=" in v)
            name = Path(f"/proc/{process}/comm").read_text().strip()
        except OSError:
            continue
        if name != "mpirun" and b"OMPI_COMM_WORLD_RANK" in variables:
            ranks[int(variables[b"OMPI_COMM_WORLD_RANK"])] = process
    return ranks


def kill_all(marker):
    """kill -9 of mpirun and all ranks at once."""
    for process in processes(marker):
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            pass
    wait_until(lambda: not processes(marker), 10, "killed processes are still there")


def wait_until(condition, seconds, complaint, pause=0.01):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(complaint)
        time.sleep(pause)


def losses(output):
    """Loss by step of a run; each step must be there once."""
    rows = read_jsonl(Path(output) / "metrics.jsonl")
    steps = [row["step"] for row in rows]
    assert steps == list(range(1, len(steps) + 1)), f"metrics.jsonl holds the steps {steps}"
    return [row["loss"] for row in rows]


def largest_difference(curve, reference):
    """Largest relative difference of two curves of the same length."""
    assert len(curve) == len(reference), (len(curve), len(reference))
    return max(abs(a - b) / abs(b) for a, b in zip(curve, reference))


def exported(checkpoint, folder):
    """The weights of a checkpoint (or of a run's newest one) as its export has them."""
    run("export", checkpoint, "--output", folder, "--dtype", "float32")
    return read_safetensors(Path(folder) / "model.safetensors")


def assert_same_bits(ours, reference):
    assert ours.keys() == reference.keys()
    different = [n for n in reference if ours[n].tobytes() != reference[n].tobytes()]
    assert not different, f"{len(different)} of {len(reference)} tensors differ, for instance {different[0]}"
