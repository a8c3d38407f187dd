"""Every model family against transformers, float32: log-probabilities, one AdamW step (routers and experts too), greedy
generation, exported folders, and folders that go through unchanged.

  python tests/parity/families_parity.py [--full] [NAME ...]     --full: all variants, not only the quick ones
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from families import MARGIN, QUICK, VARIANTS, VOCABULARY, build, greedy_reference, router_margins, write_tokenizer
from model_parity import check, failures, recipe, reference_step
from tessera import load, max_logprob_difference, random_documents, read_jsonl, run, write_jsonl

NEW_TOKENS = 16
PROMPT = 12


def make(name, folder, documents):
    """A folder whose routers leave a margin on the documents and on what the model completes them to."""
    sequences = [d["tokens"] for d in documents]
    for seed in range(100):
        model = build(name, seed)
        if name.endswith("bf16"):
            model = model.to(torch.bfloat16)
        model.save_pretrained(folder, max_shard_size="100KB" if name.endswith("sharded") else "5GB")
        reference = load(folder)
        completions = [greedy_reference(reference, s[:PROMPT], NEW_TOKENS) for s in sequences[:4]]
        margin = router_margins(reference, sequences + [s[:PROMPT] + c for s, c in zip(sequences, completions)])
        if margin > MARGIN:
            write_tokenizer(folder)
            print(f"{name}: seed {seed}, router margin {margin:.2g}", flush=True)
            return reference, completions
    raise AssertionError(f"{name}: no seed leaves a margin of {MARGIN}")


def tensors_of(state):
    """Name to tensor, stacks of experts taken apart."""
    return {(f"{name}[{i}]" if value.dim() == 3 else name): part
            for name, value in state.items() for i, part in enumerate(value if value.dim() == 3 else [value])}


def worst_change(before, ours, reference):
    """The largest relative difference of a tensor's change; where nothing should change, nothing may."""
    worst, where = 0.0, ""
    before, ours, reference = tensors_of(before), tensors_of(ours), tensors_of(reference)
    for name, start in before.items():
        change = (reference[name] - start).float()
        difference = (ours[name] - reference[name]).float().norm() / change.norm().clamp_min(1e-12)
        if difference > worst:
            worst, where = difference.item(), name
    return worst, where


def one_step(name, folder, scratch, documents):
    write_jsonl(scratch / "train.jsonl", documents)
    reference = load(folder)
    before = {k: v.clone() for k, v in reference.state_dict().items()}
    loss, norm = reference_step(reference, documents)
    output = scratch / "run"
    text = run("inspect", "data", recipe(folder, scratch, output), "--count", 0).stdout
    rows = int(next(line.split()[1] for line in text.splitlines() if line.startswith("rows ")))
    run("train", recipe(folder, scratch, output, train={"sequences_per_step": rows}), "--resume", "never")
    metrics = read_jsonl(output / "metrics.jsonl")[0]
    check(f"{name}: loss of the step", abs(metrics["loss"] - loss) / loss, 1e-5)
    check(f"{name}: gradient norm", abs(metrics["grad_norm"] - norm) / norm, 1e-4)
    run("export", output, "--output", scratch / "trained", "--dtype", "float32")
    trained = load(scratch / "trained")
    worst, where = worst_change(before, trained.state_dict(), reference.state_dict())
    check(f"{name}: weight change of one AdamW step (worst {where})", worst, 1e-3)
    sequences = [d["tokens"] for d in documents[:3]]
    check(f"{name}: exported folder in transformers", max_logprob_difference(trained, scratch / "trained", sequences, scratch), 2e-4)
    return metrics


def generation(name, folder, scratch, documents, completions):
    prompts = [{"tokens": d["tokens"][:PROMPT]} for d in documents[:len(completions)]]
    run("generate", "--model", folder, "--input", write_jsonl(scratch / "p.jsonl", prompts), "--output", scratch / "g.jsonl",
        "--temperature", 0, "--max-new-tokens", NEW_TOKENS, "--batch", 3)
    different = sum(row["tokens"] != expected for row, expected in zip(read_jsonl(scratch / "g.jsonl"), completions))
    check(f"{name}: greedy completions that differ", different, 0)


def raw_tensors(folder):
    """Name to (dtype, bytes) of all files."""
    found = {}
    for file in sorted(Path(folder).glob("*.safetensors")):
        for key, value in load_file(file).items():
            found[key] = (value.dtype, value.contiguous().view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return found


def unchanged(name, folder, scratch):
    run("export", folder, "--output", scratch / "same")
    before, after = raw_tensors(folder), raw_tensors(scratch / "same")
    different = [k for k in before.keys() | after.keys() if before.get(k) != after.get(k)]
    check(f"{name}: tensors that loading and exporting changes {different[:3]}", len(different), 0)


def dequantized(folder):
    """The folder's tensors in float32, FP8 blocks multiplied by their scales."""
    tensors = {}
    for file in sorted(Path(folder).glob("*.safetensors")):
        tensors.update(load_file(file))
    plain = {}
    for key, value in tensors.items():
        if key.endswith("_scale_inv"):
            continue
        plain[key] = value.float()
        if value.dtype == torch.float8_e4m3fn:
            scale = tensors[key + "_scale_inv"].repeat_interleave(128, 0)[:value.shape[0]].repeat_interleave(128, 1)[:, :value.shape[1]]
            plain[key] *= scale
    return plain


def copy_with(folder, target, tensors, drop=("quantization_config",)):
    target.mkdir()
    write_tokenizer(target)
    config = {k: v for k, v in json.loads((folder / "config.json").read_text()).items() if k not in drop}
    (target / "config.json").write_text(json.dumps(config))
    save_file({k: v.contiguous() for k, v in tensors.items()}, target / "model.safetensors", metadata={"format": "pt"})


def fp8(folder, scratch, sequences):
    run("export", folder, "--output", scratch / "fp8", "--weights", "fp8-blockwise")
    with safe_open(scratch / "fp8" / "model.safetensors", "pt") as file:
        kinds = {key: file.get_slice(key).get_dtype() for key in file.keys()}
    projections = [k for k in kinds if "_proj.weight" in k and not k.endswith("_scale_inv")]
    assert projections and all(kinds[k] == "F8_E4M3" and kinds[k + "_scale_inv"] == "F32" for k in projections), kinds
    assert all(v in ("BF16", "F32") for k, v in kinds.items() if k not in projections), kinds
    copy_with(scratch / "fp8", scratch / "fp8-plain", dequantized(scratch / "fp8"))
    check("FP8 folder: log-probabilities against the dequantised folder in transformers",
          max_logprob_difference(load(scratch / "fp8-plain"), scratch / "fp8", sequences, scratch), 2e-4)
    unchanged("FP8 folder", scratch / "fp8", scratch / "fp8-plain")


def stacked_experts(folder, scratch, reference, sequences):
    """The names that newer tools write: all experts of a layer in two tensors."""
    tensors = {k: v for k, v in load_file(folder / "model.safetensors").items() if ".experts." not in k}
    tensors.update({k: v for k, v in reference.state_dict().items() if ".experts." in k})
    copy_with(folder, scratch / "stacked", tensors)
    check("stacked experts: log-probabilities", max_logprob_difference(reference, scratch / "stacked", sequences, scratch), 2e-4)


def main():
    names = [a for a in sys.argv[1:] if not a.startswith("-")] or (list(VARIANTS) if "--full" in sys.argv else QUICK)
    documents = random_documents(8, 14, 60, seed=1, vocabulary=VOCABULARY)
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            scratch = Path(folder) / name
            scratch.mkdir()
            reference, completions = make(name, scratch / "model", documents)
            sequences = [d["tokens"] for d in documents]
            check(f"{name}: log-probabilities", max_logprob_difference(reference, scratch / "model", sequences, scratch), 2e-4)
            metrics = one_step(name, scratch / "model", scratch, documents)
            generation(name, scratch / "model", scratch, documents, completions)
            unchanged(name, scratch / "model", scratch)
            if name == "deepseek_v3":
                assert len(metrics["moe_layers"]) == 2 and sum(metrics["moe_layers"][0]["counts"]) == 4 * metrics["tokens"], metrics
                fp8(scratch / "model", scratch, sequences)
                stacked_experts(scratch / "model", scratch, reference, sequences)
    print(f"{len(failures)} failed" if failures else "all equal")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
