"""What the parity tests share: running the binary, random Llama folders, the reference's log-probabilities."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

ROOT = Path(__file__).resolve().parents[2]
BINARY = os.environ.get("TESSERA_BINARY", str(ROOT / "build" / "tessera"))
DEMO = ROOT / "models" / "smollm2-135m"

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
torch.manual_seed(0)
transformers.utils.logging.disable_progress_bar()


def run(*arguments, ranks=1, expect=0, **options):
    command = [BINARY, "--quiet", *map(str, arguments)]
    if ranks > 1:
        command = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--mca", "mpi_yield_when_idle", "1",
                   "-np", str(ranks), *command]
    result = subprocess.run(command, capture_output=True, text=True, **options)
    if result.returncode != expect:
        raise AssertionError(f"{command} ended with {result.returncode}:\n{result.stderr[-4000:]}")
    return result


def write_jsonl(path, rows):
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_jsonl(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


# Grouped heads, head_dim other than hidden / heads, tied and untied heads, biases, shards, dtypes.
VARIANTS = {
    "grouped": dict(),
    "wide-heads": dict(head_dim=24, num_attention_heads=8, num_key_value_heads=2, tie_word_embeddings=True),
    "biased": dict(attention_bias=True, mlp_bias=True, num_key_value_heads=1),
    "multi-head": dict(num_key_value_heads=4, rms_norm_eps=1e-5, rope_theta=500000.0, tie_word_embeddings=True),
    "llama3-rope": dict(rope_parameters=dict(rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0,
                                             high_freq_factor=4.0, original_max_position_embeddings=64)),
    "sharded": dict(),
    "bfloat16": dict(),
}


def make_variant(name, folder):
    """A random Llama folder with the demo model's tokenizer, and the model in float32."""
    settings = dict(vocab_size=49152, hidden_size=64, intermediate_size=112, num_hidden_layers=3, num_attention_heads=4,
                    num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=False, initializer_range=0.1,
                    eos_token_id=2, bos_token_id=1)
    settings.update(VARIANTS[name])
    torch.manual_seed(len(name))
    model = LlamaForCausalLM(LlamaConfig(**settings))
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith("bias") or "norm" in key:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    if name == "bfloat16":
        model = model.to(torch.bfloat16)  # rounds the rotary frequencies too: the reference is loaded from the folder
    model.save_pretrained(folder, max_shard_size="2MB" if name == "sharded" else "5GB")
    for companion in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(DEMO / companion, folder)
    return load(folder)


def load(folder, dtype=torch.float32):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="eager").eval()


def reference_logprobs(model, ids):
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0]
    return torch.log_softmax(logits, -1)[:-1].gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


def max_logprob_difference(model, folder, sequences, scratch):
    run("score", "--model", folder, "--input", write_jsonl(scratch / "in.jsonl", [{"tokens": s} for s in sequences]),
        "--output", scratch / "out.jsonl")
    worst = 0.0
    for ids, row in zip(sequences, read_jsonl(scratch / "out.jsonl")):
        assert row["tokens"] == ids and row["logprobs"][0] is None
        ours = torch.tensor(row["logprobs"][1:])
        worst = max(worst, (ours - reference_logprobs(model, ids)).abs().max().item())
    return worst


def random_documents(count, shortest, longest, seed, vocabulary=49152):
    generator = torch.Generator().manual_seed(seed)
    documents = []
    for _ in range(count):
        length = int(torch.randint(shortest, longest + 1, (1,), generator=generator))
        ids = torch.randint(17, vocabulary, (length,), generator=generator).tolist()
        mask = torch.randint(0, 2, (length,), generator=generator).tolist()
        mask[0], mask[-1] = 0, 1
        documents.append({"tokens": ids, "loss_mask": mask})
    return documents
