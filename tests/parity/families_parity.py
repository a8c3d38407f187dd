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

from families import MARGIN, Mtp, QUICK, VARIANTS, VOCABULARY, build, greedy_reference, router_margins, write_tokenizer
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
    # Training moved the routers: documents with a token that now sits between two experts are left out.
    margins = [router_margins(trained, [d["tokens"]]) for d in documents]
    sequences = [d["tokens"] for d, margin in zip(documents, margins) if margin > MARGIN][:3]
    assert sequences, f"{name}: no document leaves a margin of {MARGIN}: {margins}"
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
    projections = [k for k in kinds if "_proj" in k and k.endswith(".weight")]
    wrong = [k for k, kind in kinds.items() if kind not in (("F8_E4M3",) if k in projections else ("BF16", "F32"))]
    check(f"FP8 folder: tensors of another dtype {wrong[:3]}", len(wrong), 0)
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


def one_expert_each(tensors):
    """Stacks of experts taken apart into the names of published files."""
    apart = {}
    for name, value in tensors.items():
        if name.endswith("experts.gate_up_proj"):
            for e, part in enumerate(value):
                for kind, half in zip(("gate", "up"), part.chunk(2)):
                    apart[f"{name.removesuffix('gate_up_proj')}{e}.{kind}_proj.weight"] = half
        elif name.endswith("experts.down_proj"):
            for e, part in enumerate(value):
                apart[f"{name.removesuffix('down_proj')}{e}.down_proj.weight"] = part
        else:
            apart[name] = value
    return apart


def mtp_step(joined, documents, weight):
    """One AdamW step on the main loss and the module's, each a mean over its own targets."""
    named = [(n, p) for n, p in joined.named_parameters()]
    optimizer = torch.optim.AdamW([{"params": [p for _, p in named if p.dim() >= 2], "weight_decay": 0.1},
                                   {"params": [p for _, p in named if p.dim() < 2], "weight_decay": 0.0}], lr=1e-3, betas=(0.9, 0.95), eps=1e-3)
    counts = [sum(sum(d["loss_mask"][1 + k:]) for d in documents) for k in (0, 1)]
    sums = [0.0, 0.0]
    for document in documents:
        ids = torch.tensor([document["tokens"]])
        for k, logits in enumerate(joined(ids)):
            picked = torch.log_softmax(logits, -1)[:-1].gather(1, ids[0, 1 + k:, None])[:, 0]
            loss = -(picked * torch.tensor(document["loss_mask"][1 + k:])).sum() / counts[k] * (weight if k else 1.0)
            loss.backward(retain_graph=k == 0)
            sums[k] += loss.item()
    torch.nn.utils.clip_grad_norm_([p for _, p in named], 1.0)
    optimizer.step()
    return sums


def mtp(folder, scratch, documents, weight=0.3):
    reference = load(folder)
    for seed in range(100):
        torch.manual_seed(seed)
        joined = Mtp(reference).eval()
        if router_margins(joined, [d["tokens"] for d in documents], lambda s: joined(torch.tensor([s]))) > MARGIN:
            break
    source = scratch / "mtp"
    copy_with(folder, source, {**load_file(folder / "model.safetensors"), **joined.public_tensors()})
    sequences = [d["tokens"] for d in documents[:3]]
    check("MTP: log-probabilities of the main model", max_logprob_difference(reference, source, sequences, scratch), 2e-4)
    before = one_expert_each({**{k: v.clone() for k, v in reference.state_dict().items()}, **joined.public_tensors()})
    main_loss, module_loss = mtp_step(joined, documents, weight)
    after = one_expert_each({**reference.state_dict(), **joined.public_tensors()})
    write_jsonl(scratch / "train.jsonl", documents)
    output = scratch / "run-mtp"
    run("train", recipe(source, scratch, output, data={"packing": False}, mtp={"loss_weight": weight}, train={"sequences_per_step": len(documents)}),
        "--resume", "never")
    metrics = read_jsonl(output / "metrics.jsonl")[0]
    check("MTP: main loss", abs(metrics["loss"] - main_loss) / main_loss, 1e-5)
    check("MTP: the module's loss", abs(metrics["mtp_loss"] - module_loss) / module_loss, 1e-5)
    run("export", output, "--output", scratch / "trained-mtp", "--dtype", "float32")
    worst, where = worst_change(before, load_file(scratch / "trained-mtp" / "model.safetensors"), after)
    check(f"MTP: weight change of one AdamW step (worst {where})", worst, 1e-3)


def ranks_and_resume(folder, scratch, documents):
    """Balancing, its losses and MTP on one rank, on two, and interrupted: the same losses and weights."""
    write_jsonl(scratch / "train.jsonl", documents)

    def train(output, steps, ranks=1):
        path = recipe(folder, scratch, scratch / output, data={"packing": False}, mtp={"loss_weight": 0.1},
                      moe={"bias_update_rate": 0.001, "sequence_balance_loss": 0.01, "z_loss": 0.001},
                      train={"sequences_per_step": 5, "sequences_per_microbatch": 2, "steps": steps}, checkpoint={"every": 2})
        run("train", path, ranks=ranks)
        run("export", scratch / output, "--output", scratch / f"{output}-model", "--dtype", "float32")
        return read_jsonl(scratch / output / "metrics.jsonl"), load_file(scratch / f"{output}-model" / "model.safetensors")

    one, weights = train("one", 4)
    two, weights_of_two = train("two", 4, ranks=2)
    train("cut", 2)
    cut, weights_of_cut = train("cut", 4)
    for key in ("loss", "mtp_loss", "balance_loss", "z_loss", "grad_norm"):
        check(f"two ranks: {key}", max(abs(a[key] - b[key]) / abs(a[key]) for a, b in zip(one, two)), 1e-4)
    check("two ranks: steps with other counts", sum(a["moe_layers"] != b["moe_layers"] for a, b in zip(one, two)), 0)
    biases = [k for k in weights if k.endswith("e_score_correction_bias")]
    moved = load_file(folder / "model.safetensors")
    assert len(biases) == 3 and all((weights[k] - moved[k]).abs().max() > 5e-4 for k in biases)
    check("two ranks: correction biases", max((weights[k] - weights_of_two[k]).abs().max().item() for k in biases), 0)
    check("resumed: tensors that differ", sum(not weights[k].equal(weights_of_cut[k]) for k in weights), 0)
    check("resumed: losses that differ", sum(a["loss"] != b["loss"] for a, b in zip(one, cut)), 0)


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
                mtp(scratch / "model", scratch, documents)
                ranks_and_resume(scratch / "mtp", scratch, documents)
    print(f"{len(failures)} failed" if failures else "all equal")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
