"""Bad input of many kinds: a clear message that names the place and the remedy, a non-zero exit, never a crash.

  bad_inputs.py [--full] [WORD]     --full: every case, not every third; WORD: the cases whose name holds it
"""

import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import VOCABULARY, make_model, run, safetensors_bytes, read_safetensors, write_jsonl, write_recipe, documents

# What a user must never see: crashes, stack traces, mistakes that we blame on ourselves.
FORBIDDEN = ["terminate called", "Exception raised from", "frame #", "internal error", "Segmentation", "std::bad_alloc",
             "basic_string", "json.exception", "filesystem error", "ERROR: AddressSanitizer", "stoi", "vector::"]
GOOD_LINE = {"prompt": "two and two?", "completion": "four"}
CASES = []


def case(name, *words):
    """The function below prepares a scene and returns the arguments; `words` must be in the message."""
    def register(prepare):
        CASES.append((name, words, prepare))
        return prepare
    return register


class Scene:
    def __init__(self, root, model):
        self.root, self.shared_model = root, model
        self.data = root / "train.jsonl"
        write_jsonl(self.data, documents(20, 10, 40, seed=9) + [GOOD_LINE])

    def recipe(self, **changes):
        return write_recipe(self.root / "recipe.yaml", self.shared_model, self.data, self.root / "run",
                            **{"train": {"steps": 2, "sequences_per_step": 2}, **changes})

    def yaml(self, text):
        path = self.root / "recipe.yaml"
        path.write_text(text.replace("MODEL", str(self.shared_model)).replace("DATA", str(self.data)).replace("RUN", str(self.root / "run")))
        return ["train", path]

    def train(self, *arguments, **changes):
        return ["train", self.recipe(**changes), *arguments]

    def line(self, line, **changes):
        """Trains on a file whose third line is `line` (bytes, text or a value)."""
        if not isinstance(line, (bytes, str)):
            line = json.dumps(line)
        good = json.dumps(GOOD_LINE).encode()
        self.data.write_bytes(b"\n".join([good, good, line if isinstance(line, bytes) else line.encode(), good, b""]))
        return self.train(**changes)

    def model(self):
        """A model folder of its own, to be damaged."""
        folder = self.root / "model"
        shutil.copytree(self.shared_model, folder)
        return folder

    def with_weights(self, damage):
        folder = self.model()
        path = folder / "model.safetensors"
        data = path.read_bytes()
        length = struct.unpack("<Q", data[:8])[0]
        header, body = json.loads(data[8:8 + length]), data[8 + length:]
        changed = damage(header, body)
        if changed is None:
            text = json.dumps(header).encode()
            changed = struct.pack("<Q", len(text)) + text + body
        path.write_bytes(changed)
        return ["train", write_recipe(self.root / "recipe.yaml", folder, self.data, self.root / "run", train={"steps": 1})]

    def with_config(self, **changes):
        folder = self.model()
        config = json.loads((folder / "config.json").read_text())
        config.update(changes)
        (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
        return ["train", write_recipe(self.root / "recipe.yaml", folder, self.data, self.root / "run", train={"steps": 1})]

    def with_file(self, name, text):
        folder = self.model()
        (folder / name).write_text(text)
        return ["train", write_recipe(self.root / "recipe.yaml", folder, self.data, self.root / "run", train={"steps": 1})]


MINIMAL = """task: sft
output: RUN
model: {path: MODEL}
data:
  train: [{path: DATA}]
train: {steps: 2}
"""

# ---- recipes
case("recipe: does not exist", "nowhere.yaml", "does not exist")(lambda s: ["train", s.root / "nowhere.yaml"])
case("recipe: a folder", "cannot read", "directory")(lambda s: ["train", s.root])
case("recipe: unknown key", "recipe.yaml:7", "frobnicate", "is not a known key")(lambda s: s.yaml(MINIMAL + "frobnicate: 3\n"))
case("recipe: misspelt key", "recipe.yaml:8", "optimizer.weigth_decay", "did you mean 'weight_decay'")(
    lambda s: s.yaml(MINIMAL + "optimizer:\n  weigth_decay: 3\n"))
case("recipe: duplicate key", "recipe.yaml:7", "'task' is given twice", "recipe.yaml:1")(lambda s: s.yaml(MINIMAL + "task: sft\n"))
case("recipe: wrong type", "recipe.yaml:7", "seed", "soon", "whole number")(lambda s: s.yaml(MINIMAL + "seed: soon\n"))
case("recipe: fraction for a count", "train.steps", "2.5", "whole number")(lambda s: s.train("train.steps=2.5"))
case("recipe: number too large", "train.steps", "whole number")(lambda s: s.train("train.steps=99999999999999999999"))
case("recipe: text for a section", "recipe.yaml:7", "optimizer", "section")(lambda s: s.yaml(MINIMAL + "optimizer: adamw\n"))
case("recipe: negative lr", "recipe.yaml:7", "optimizer.lr", "must be positive")(lambda s: s.yaml(MINIMAL + "optimizer: {lr: -1}\n"))
case("recipe: lr that is not a number", "optimizer.lr", "must be a number")(lambda s: s.train("optimizer.lr=.nan"))
case("recipe: no data", "recipe.yaml", "data.train is missing")(lambda s: s.yaml("task: sft\noutput: RUN\nmodel: {path: MODEL}\ntrain: {steps: 2}\n"))
case("recipe: no steps", "recipe.yaml", "train.steps is missing")(
    lambda s: s.yaml("task: sft\noutput: RUN\nmodel: {path: MODEL}\ndata: {train: [{path: DATA}]}\n"))
case("recipe: no model", "recipe.yaml", "model needs either 'path'")(
    lambda s: s.yaml("task: sft\noutput: RUN\ntrain: {steps: 2}\ndata: {train: [{path: DATA}]}\n"))
case("recipe: unknown task", "recipe.yaml:1", "'stf' is not known", "did you mean 'sft'")(lambda s: s.yaml(MINIMAL.replace("task: sft", "task: stf")))
case("recipe: base missing", "other.yaml", "does not exist")(lambda s: s.yaml("base: other.yaml\n" + MINIMAL))


@case("recipe: base of a base", "recipe.yaml:1", "one level only")
def _(s):
    (s.root / "other.yaml").write_text("base: third.yaml\n")
    return s.yaml("base: other.yaml\n" + MINIMAL)


case("recipe: not YAML", "recipe.yaml:8", "not valid YAML")(lambda s: s.yaml(MINIMAL + "seed: [1, 2\nname: }\n"))
case("recipe: binary", "recipe.yaml")(lambda s: (s.yaml(""), (s.root / "recipe.yaml").write_bytes(os.urandom(200) + b"\0\xff"))[0])
case("recipe: invalid UTF-8", "recipe.yaml:7", "not UTF-8")(lambda s: (s.yaml(""), (s.root / "recipe.yaml").write_bytes(
    MINIMAL.replace("MODEL", str(s.shared_model)).encode() + b"name: caf\xe9\n"), ["train", s.root / "recipe.yaml"])[2])
case("recipe: empty", "recipe.yaml", "is empty")(lambda s: s.yaml(""))
case("recipe: a list", "recipe.yaml:1", "expected 'key: value'")(lambda s: s.yaml("- a\n- b\n"))
case("recipe: key without value", "recipe.yaml:7", "'name' has no value")(lambda s: s.yaml(MINIMAL + "name:\n"))
case("recipe: nested too deeply", "nested too deeply")(lambda s: s.yaml(MINIMAL + "name: " + "[" * 500 + "]" * 500 + "\n"))
case("recipe: nested far too deeply", "recipe.yaml")(lambda s: s.yaml(MINIMAL + "name: " + "[" * 200000 + "\n"))
case("recipe: exploding aliases", "recipe.yaml", "too large")(lambda s: s.yaml(
    "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 10)}]\n" for i in range(8)) + MINIMAL))
case("recipe: alias to itself", "recipe.yaml")(lambda s: s.yaml(MINIMAL + "name: &n [*n]\n"))
case("override: no '='", "optimizer.lr", "key=value")(lambda s: s.train("optimizer.lr"))
case("override: unknown key", "command line", "optimizer.rate", "is not a known key")(lambda s: s.train("optimizer.rate=1"))
case("override: below a value", "optimizer.lr")(lambda s: s.train("optimizer.lr.x=1"))
case("recipe: more pipeline ranks than ranks", "parallel.pp = 2 must divide the world size = 1")(lambda s: s.train("parallel.pp=2"))
case("recipe: no stages a rank", "parallel.stages_per_rank = 0", "at least 1")(lambda s: s.train("parallel.stages_per_rank=0"))
case("recipe: section of another task", "rl belongs to task: grpo")(lambda s: s.yaml(MINIMAL + "rl: {temperature: 1}\n"))
case("warning: sequence_length beyond the model", "data.sequence_length = 4096", "max_position_embeddings = 512")(
    lambda s: s.train("data.sequence_length=4096"))
case("warning: long samples skipped", "1 of 4 samples are longer than data.sequence_length = 128 and skipped")(
    lambda s: s.line({"text": "a" * 300}, data={"overlong": "skip"}))
case("recipe: LoRA target that does not exist", "target_modules", "q_prj", "known: ", "q_proj")(
    lambda s: s.train("model.lora.target_modules=[q_prj]"))
case("recipe: enormous LoRA rank", "model.lora.r", "at most")(lambda s: s.train("model.lora.r=100000000000"))
case("recipe: enormous step", "train.sequences_per_step", "at most")(lambda s: s.train("train.sequences_per_step=100000000000"))
case("recipe: LoRA rank 0", "model.lora.r", "positive")(lambda s: s.train("model.lora.r=0"))
case("recipe: model path missing", "nowhere", "model.path")(lambda s: s.train(f"model.path={s.root}/nowhere"))
case("recipe: fresh weights with a broken config", "model.config", "hidden_size")(lambda s: s.yaml(MINIMAL.replace(
    "{path: MODEL}", "{tokenizer: MODEL, config: {model_type: llama, vocab_size: 259}}")))
case("recipe: vocabulary smaller than the tokenizer's", "tokenizer has 259 tokens", "vocab_size")(lambda s: s.yaml(MINIMAL.replace(
    "{path: MODEL}", "{tokenizer: MODEL, config: {model_type: llama, vocab_size: 100, hidden_size: 8, intermediate_size: 8, "
    "num_hidden_layers: 1, num_attention_heads: 2}}")))

# ---- training data
case("data: missing file", "nowhere.jsonl", "no such file")(lambda s: s.train(data={"train": [{"path": str(s.root / "nowhere.jsonl")}]}))
case("data: unknown kind", "unknown kind of data", ".jsonl")(
    lambda s: ((s.root / "a.csv").write_text("1,2\n"), s.train(data={"train": [{"path": str(s.root / "a.csv")}]}))[1])
case("data: bad JSON", "train.jsonl:3", "not valid JSON")(lambda s: s.line('{"text": "a'))
case("data: not an object", "train.jsonl:3")(lambda s: s.line([1, 2]))
case("data: no known keys", "train.jsonl:3", "messages")(lambda s: s.line({"question": "a", "reply": "b"}))
case("data: wrong type", "train.jsonl:3", "text", "string")(lambda s: s.line({"text": 5}))
case("data: no trained token", "train.jsonl:3", "no token of this sample is trained")(lambda s: s.line({"tokens": [1, 2, 3], "loss_mask": [0, 0, 0]}))
case("data: chat without an answer", "train.jsonl:3", "no token of this sample is trained")(lambda s: s.line({"messages": [{"role": "user", "content": "a"}]}))
case("data: empty messages", "train.jsonl:3", "messages")(lambda s: s.line({"messages": []}))
case("data: message without role", "train.jsonl:3", "role")(lambda s: s.line({"messages": [{"content": "a"}]}))
case("data: token outside the vocabulary", "train.jsonl:3", "tokens[1]", "259", "vocabulary")(
    lambda s: s.line({"tokens": [1, VOCABULARY, 3], "loss_mask": [0, 1, 1]}))
case("data: negative token", "train.jsonl:3", "tokens[1]", "vocabulary")(lambda s: s.line({"tokens": [1, -1], "loss_mask": [0, 1]}))
case("data: loss_mask of another length", "train.jsonl:3", "loss_mask", "must match")(lambda s: s.line({"tokens": [1, 2, 3], "loss_mask": [0, 1]}))
case("data: loss_mask of 2", "train.jsonl:3", "loss_mask[1]", "must be 0 or 1")(lambda s: s.line({"tokens": [1, 2], "loss_mask": [0, 2]}))
case("data: tokens without loss_mask", "train.jsonl:3", "loss_mask")(lambda s: s.line({"tokens": [1, 2]}))
case("data: too long", "train.jsonl:3", "data.sequence_length = 128", "data.overlong")(lambda s: s.line({"text": "a" * 300}))
case("data: truncation removes the answer", "train.jsonl:3", "would remove all trained tokens")(
    lambda s: s.line({"prompt": "a" * 300, "completion": "b"}, data={"overlong": "truncate"}))
case("data: unknown overlong", "data.overlong", "truncat", "did you mean truncate")(lambda s: s.train("data.overlong=truncat"))
case("data: empty file", "train.jsonl", "no sample")(lambda s: (s.data.write_text(""), s.train())[1])
case("data: invalid UTF-8", "train.jsonl:3", "UTF-8")(lambda s: s.line(b'{"text": "\xff\xfe"}'))
case("data: lone surrogate", "train.jsonl:3")(lambda s: s.line('{"text": "\\ud800"}'))
case("data: deep nesting", "train.jsonl:3", "nested deeper")(lambda s: s.line("[" * 100000))
case("data: null bytes", "train.jsonl:3", "not valid JSON")(lambda s: s.line(b"\0" * 50))
case("data: store that is no HDF5", "broken.h5")(
    lambda s: ((s.root / "broken.h5").write_bytes(os.urandom(5000)), s.train(data={"train": [{"path": str(s.root / "broken.h5")}]}))[1])


@case("data: truncated store", "broken.h5")
def _(s):
    path = s.root / "broken.h5"
    run("prepare", "--input", s.data, "--model", s.shared_model, "--output", path)
    path.write_bytes(path.read_bytes()[:-700])
    return s.train(data={"train": [{"path": str(path)}]})


@case("data: store of another tokenizer", "store.h5", "another tokenizer")
def _(s):
    folder = s.model()
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace("<|bot|>", "<|bat|>"))
    (folder / "chat_template.jinja").unlink()
    run("prepare", "--input", s.data, "--model", folder, "--output", s.root / "store.h5")
    return s.train(data={"train": [{"path": str(s.root / "store.h5")}]})


case("data: under two ranks", "train.jsonl:3", "not valid JSON")(lambda s: s.line("{"))

# ---- safetensors
W = "model.layers.0.mlp.up_proj.weight"


def entry(**changes):
    def damage(header, body):
        header[W].update(changes)
    return damage


case("safetensors: truncated", "model.safetensors", "bytes")(lambda s: s.with_weights(lambda h, b: struct.pack("<Q", len(json.dumps(h))) + json.dumps(h).encode() + b[:-100]))
case("safetensors: shorter than a header", "model.safetensors", "too few")(lambda s: s.with_weights(lambda h, b: b"abc"))
case("safetensors: empty", "model.safetensors", "too few")(lambda s: s.with_weights(lambda h, b: b""))
case("safetensors: header longer than the file", "model.safetensors", "claims a header")(
    lambda s: s.with_weights(lambda h, b: struct.pack("<Q", 2**62) + b))
case("safetensors: header shorter than it is", "model.safetensors", "JSON")(
    lambda s: s.with_weights(lambda h, b: struct.pack("<Q", 20) + json.dumps(h).encode() + b))
case("safetensors: offsets outside", "model.safetensors", W, "claims bytes")(lambda s: s.with_weights(entry(data_offsets=[0, 2**40])))
case("safetensors: offsets reversed", "model.safetensors", W)(lambda s: s.with_weights(entry(data_offsets=[400, 0])))
case("safetensors: negative offsets", "model.safetensors", W, "data_offsets")(lambda s: s.with_weights(entry(data_offsets=[-4, 0])))
case("safetensors: shape and size differ", "model.safetensors", W, "its shape needs")(lambda s: s.with_weights(entry(shape=[3, 5])))
case("safetensors: shape that overflows", "model.safetensors", W, "impossible shape")(lambda s: s.with_weights(entry(shape=[2**33, 2**33])))
case("safetensors: unknown dtype", "model.safetensors", W, "dtype", "F13")(lambda s: s.with_weights(entry(dtype="F13")))
case("safetensors: entry that is no object", "model.safetensors", W)(lambda s: s.with_weights(lambda h, b: h.update({W: 3})))


@case("safetensors: overlap", "model.safetensors", "overlap")
def _(s):
    def damage(header, body):
        header[W]["data_offsets"] = header["model.layers.0.mlp.gate_proj.weight"]["data_offsets"]
    return s.with_weights(damage)


def renamed(old, new):
    def damage(header, body):
        header[new] = header.pop(old)
    return damage


case("safetensors: missing tensor", "lacks 1 tensors", W)(lambda s: s.with_weights(lambda h, b: retell(h, b, lambda t: t.pop(W))))
case("safetensors: extra tensor", "no place for", "model.more.weight")(
    lambda s: s.with_weights(lambda h, b: retell(h, b, lambda t: t.update({"model.more.weight": t["model.norm.weight"]}))))
case("safetensors: wrong shape", "model.safetensors", W, "config.json makes it")(
    lambda s: s.with_weights(lambda h, b: retell(h, b, lambda t: t.update({W: t[W].T.copy()}))))


def retell(header, body, change):
    """The file anew, after a change to its tensors."""
    with tempfile.NamedTemporaryFile() as file:
        text = json.dumps(header).encode()
        Path(file.name).write_bytes(struct.pack("<Q", len(text)) + text + body)
        tensors = read_safetensors(file.name)
    change(tensors)
    return safetensors_bytes(tensors)


@case("safetensors: missing shard", "index.json", "model-2.safetensors", "is missing")
def _(s):
    folder = s.model()
    os.rename(folder / "model.safetensors", folder / "model-1.safetensors")
    names = read_safetensors(folder / "model-1.safetensors")
    index = {name: "model-1.safetensors" for name in names} | {"model.layers.9.x": "model-2.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return ["train", write_recipe(s.root / "recipe.yaml", folder, s.data, s.root / "run", train={"steps": 1})]


case("safetensors: broken index", "index.json", "not a safetensors index")(lambda s: s.with_file("model.safetensors.index.json", "{]"))
case("safetensors: index that leads outside", "index.json", "does not name a file of the folder")(
    lambda s: s.with_file("model.safetensors.index.json", json.dumps({"weight_map": {W: "../../etc/passwd"}})))
case("safetensors: none", "model.safetensors", "Hugging Face folder")(
    lambda s: (s.with_file("README", ""), (s.root / "model" / "model.safetensors").unlink())[0])

# ---- tokenizer and config
case("tokenizer.json: broken", "tokenizer.json", "not valid JSON")(lambda s: s.with_file("tokenizer.json", '{"model": '))
case("tokenizer.json: another kind", "tokenizer.json", "Unigram")(lambda s: s.with_file("tokenizer.json", json.dumps({"model": {"type": "Unigram", "vocab": []}})))
case("tokenizer.json: lies about ids", "tokenizer.json")(lambda s: s.with_file("tokenizer.json", json.dumps(
    {"model": {"type": "BPE", "vocab": {"a": -5, "b": 2**40}, "merges": []}, "pre_tokenizer": {"type": "ByteLevel"}})))
case("tokenizer.json: merge of unknown tokens", "tokenizer.json", "merge")(lambda s: s.with_file("tokenizer.json", (
    s.shared_model / "tokenizer.json").read_text().replace('"merges": []', '"merges": ["qq zz"]')))
case("tokenizer.json: missing", "tokenizer.json")(lambda s: (s.with_file("README", ""), (s.root / "model" / "tokenizer.json").unlink())[0])
case("chat template: broken", "chat_template.jinja")(lambda s: (s.line({"messages": [{"role": "user", "content": "a"}]}), s.with_file(
    "chat_template.jinja", "{% for m in messages %}{{ m.content }"))[1])
case("chat template: no end token", "end-of-turn token")(lambda s: (s.line({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}), s.with_file(
    "chat_template.jinja", "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"))[1])
case("tokenizer_config.json: broken template list", "tokenizer_config.json", "chat_template")(lambda s: (
    s.with_file("tokenizer_config.json", json.dumps({"eos_token": "<|end|>", "chat_template": [{"name": 3, "template": 4}]})),
    (s.root / "model" / "chat_template.jinja").unlink())[0])
case("config.json: broken", "config.json", "not valid JSON")(lambda s: s.with_file("config.json", "{"))
case("config.json: a list", "config.json", "must be a JSON object")(lambda s: s.with_file("config.json", "[]"))
case("config.json: missing", "config.json", "does not exist")(lambda s: (s.with_file("README", ""), (s.root / "model" / "config.json").unlink())[0])
case("config.json: unsupported model_type", "config.json", "mamba", "llama")(lambda s: s.with_config(model_type="mamba"))
case("config.json: sliding window", "config.json", "sliding_window", "not supported")(lambda s: s.with_config(sliding_window=128))
case("config.json: unsupported activation", "config.json", "hidden_act", "gelu")(lambda s: s.with_config(hidden_act="gelu"))
case("config.json: size missing", "config.json", "hidden_size", "is missing")(lambda s: s.with_config(hidden_size=None))
case("config.json: negative size", "config.json", "num_hidden_layers", "positive")(lambda s: s.with_config(num_hidden_layers=-1))
case("config.json: enormous size", "config.json", "head_dim")(lambda s: s.with_config(hidden_size=2**31 - 2))
case("config.json: more than any memory", "out of memory")(lambda s: s.with_config(vocab_size=2**31, hidden_size=2**20))
case("config.json: negative epsilon", "config.json", "rms_norm_eps", "0 or more")(lambda s: s.with_config(rms_norm_eps=-1))
case("config.json: RoPE of base 0", "config.json", "rope_theta", "positive")(lambda s: s.with_config(rope_theta=0))
case("config.json: RoPE factor 0", "config.json", "factor", "positive")(lambda s: s.with_config(
    rope_scaling={"rope_type": "llama3", "factor": 0, "original_max_position_embeddings": 64}))
case("config.json: many layers", "lacks")(lambda s: s.with_config(num_hidden_layers=7))
case("config.json: heads that do not divide", "config.json", "num_key_value_heads", "must divide")(lambda s: s.with_config(num_key_value_heads=3))
case("config.json: odd head_dim", "config.json", "head_dim", "even")(lambda s: s.with_config(head_dim=7))
case("config.json: text for a number", "config.json", "hidden_size", "integer")(lambda s: s.with_config(hidden_size="64"))
case("config.json: pretraining_tp as text", "config.json", "pretraining_tp")(lambda s: s.with_config(pretraining_tp="x"))
case("config.json: unknown RoPE", "config.json", "rope_type", "elastic")(lambda s: s.with_config(rope_scaling={"rope_type": "elastic"}))

# ---- output, resume, command line
@case("output: a file", "output", "cannot create")
def _(s):
    (s.root / "run").write_text("")
    return s.train()


@case("output: unwritable", "output", "cannot create", "/proc/tessera")
def _(s):
    return s.train("output=/proc/tessera")


case("resume: no checkpoint", "--resume", "nowhere")(lambda s: s.train("--resume", s.root / "nowhere"))
case("resume: a folder that is no checkpoint", "--resume", "manifest.json")(lambda s: s.train("--resume", s.shared_model))


@case("resume: changed data", "training data (data.train) has changed", "--resume never")
def _(s):
    run(*s.train())
    write_jsonl(s.data, documents(21, 10, 40, seed=10))
    return s.train()


@case("resume: changed seed", "seed was 3 and is 4", "--resume never")
def _(s):
    run(*s.train())
    return s.train("seed=4")


@case("output: full disk", "No space left", "free some space")
def _(s):
    mounted(s, "2m")
    return s.train(output=str(s.root / "run"), checkpoint={"every": 1}, model={"path": str(s.large_model)})


def mounted(s, size):
    (s.root / "run").mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(s.root / "run")], capture_output=True, text=True)
    if mount.returncode != 0:
        raise Skip("mounting a small tmpfs needs root: " + mount.stderr.strip())


class Skip(Exception):
    pass


case("generate: no prompt", "--prompt", "--input")(lambda s: ["generate", "--model", s.shared_model])
case("generate: empty prompt", "--prompt")(lambda s: ["generate", "--model", s.shared_model, "--prompt", ""])
case("generate: negative temperature", "temperature", "0")(lambda s: ["generate", "--model", s.shared_model, "--prompt", "a", "--temperature", "-1"])
case("generate: top-p of 0", "top-p")(lambda s: ["generate", "--model", s.shared_model, "--prompt", "a", "--top-p", "0"])
case("generate: no tokens wanted", "max-new-tokens")(lambda s: ["generate", "--model", s.shared_model, "--prompt", "a", "--max-new-tokens", "0"])
case("generate: no such model", "nowhere")(lambda s: ["generate", "--model", s.root / "nowhere", "--prompt", "a"])
case("generate: prompt longer than the model", "in.jsonl:1", "max_position_embeddings")(
    lambda s: ["generate", "--model", s.shared_model, "--input", write_jsonl(s.root / "in.jsonl", [{"tokens": [1] * 600}])])
case("generate: not a list of ids", "in.jsonl:1", "tokens")(
    lambda s: ["generate", "--model", s.shared_model, "--input", write_jsonl(s.root / "in.jsonl", [{"tokens": ["a"]}])])
case("generate: huge id", "in.jsonl:1", "vocabulary")(
    lambda s: ["generate", "--model", s.shared_model, "--input", write_jsonl(s.root / "in.jsonl", [{"tokens": [2**32 + 1]}])])
case("generate: invalid UTF-8", "in.jsonl:1", "UTF-8")(
    lambda s: ((s.root / "in.jsonl").write_bytes(b'{"prompt": "\xff"}\n'), ["generate", "--model", s.shared_model, "--input", s.root / "in.jsonl"])[1])
case("generate: invalid UTF-8 on the command line", "--prompt", "UTF-8")(
    lambda s: ["generate", "--model", s.shared_model, "--prompt", b"\xff\xfe"])
case("generate: output in a missing folder", "nowhere")(
    lambda s: ["generate", "--model", s.shared_model, "--input", write_jsonl(s.root / "in.jsonl", [{"prompt": "a"}]), "--max-new-tokens", "1", "--output", s.root / "nowhere" / "o"])
case("generate: a model folder that is a file", "no folder")(lambda s: ["generate", "--model", s.data, "--prompt", "a"])
case("score: missing input", "nowhere.jsonl", "does not exist")(lambda s: ["score", "--model", s.shared_model, "--input", s.root / "nowhere.jsonl"])
case("score: a folder as input", "cannot read")(lambda s: ["score", "--model", s.shared_model, "--input", s.root])
case("score: empty input", "in.jsonl", "no lines")(lambda s: ["score", "--model", s.shared_model, "--input", write_jsonl(s.root / "in.jsonl", [])])
case("eval: no answer", "in.jsonl:1", "answer")(
    lambda s: ["eval", "--model", s.shared_model, "--input", write_jsonl(s.root / "in.jsonl", [{"prompt": "a"}])])
case("eval: messages that are none", "in.jsonl:1", "message 1", "role")(
    lambda s: ["eval", "--model", s.shared_model, "--input", write_jsonl(s.root / "in.jsonl", [{"messages": [3], "answer": "a"}])])
case("eval: a role that is no text", "in.jsonl:1", "role")(
    lambda s: ["eval", "--model", s.shared_model, "--input", write_jsonl(s.root / "in.jsonl", [{"messages": [{"role": 3, "content": "a"}], "answer": "a"}])])
case("eval: several greedy samples", "--samples", "--temperature")(
    lambda s: ["eval", "--model", s.shared_model, "--input", write_jsonl(s.root / "in.jsonl", [{"prompt": "a", "answer": "a"}]), "--samples", "4"])
case("eval: an unknown reward", "nummeric")(
    lambda s: ["eval", "--model", s.shared_model, "--input", write_jsonl(s.root / "in.jsonl", [{"prompt": "a", "answer": "a"}]), "--reward", "nummeric"])
case("eval: a recipe without rewards", "rl", "--recipe")(
    lambda s: ["eval", "--model", s.shared_model, "--input", write_jsonl(s.root / "in.jsonl", [{"prompt": "a", "answer": "a"}]), "--recipe", s.recipe()])
case("export: no checkpoint", "neither a checkpoint")(
    lambda s: ((s.root / "checkpoints").mkdir(), ["export", s.root, "--output", s.root / "out"])[1])
case("export: unknown dtype", "--dtype", "int8")(lambda s: ["export", s.shared_model, "--output", s.root / "out", "--dtype", "int8"])
case("export: onto itself", "--output")(lambda s: ["export", s.shared_model, "--output", s.shared_model])
case("adapter: wrong types", "adapter_config.json", "peft_type")(lambda s: (s.with_file("adapter_config.json", '{"peft_type": 3, "base_model_name_or_path": "%s"}' % s.shared_model), [
    "generate", "--model", s.root / "model", "--prompt", "a"])[1])
case("adapter: DoRA", "adapter_config.json", "use_dora")(lambda s: (s.with_file("adapter_config.json", '{"peft_type": "LORA", "use_dora": "yes", "base_model_name_or_path": "%s"}' % s.shared_model), [
    "generate", "--model", s.root / "model", "--prompt", "a"])[1])
case("adapter: base missing", "nowhere")(lambda s: (s.with_file("adapter_config.json", json.dumps({
    "peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "base_model_name_or_path": str(s.root / "nowhere")})), [
    "generate", "--model", s.root / "model", "--prompt", "a"])[1])
case("synthesize: unknown task", "astrology", "healthcare")(lambda s: ["synthesize", "astrology", "--count", "3"])
case("synthesize: negative count", "count")(lambda s: ["synthesize", "healthcare", "--count", "-3"])
case("synthesize: unknown kind", "pallets")(lambda s: ["synthesize", "logistics", "--kind", "palets"])
case("synthesize: unknown style", "think")(lambda s: ["synthesize", "finance", "--style", "thinking"])
case("synthesize: difficulty out of range", "1..5")(lambda s: ["synthesize", "finance", "--difficulty", "6"])
case("inspect: no such path", "nowhere")(lambda s: ["inspect", "model", s.root / "nowhere"])
case("inspect: rows that do not exist", "--first")(lambda s: ["inspect", "data", s.recipe(), "--first", "-5"])
case("tokenize: missing model", "tokenizer.json")(lambda s: ["tokenize", "--model", s.root])
case("command: unknown", "trian")(lambda s: ["trian"])
case("command: none", "subcommand")(lambda s: [])


def check(name, words, prepare, scene):
    try:
        arguments = prepare(scene)
        result = run(*[a if isinstance(a, bytes) else str(a) for a in arguments], ranks=2 if "two ranks" in name else 1, expect=None, timeout=60)
    except Skip as reason:
        print(f"SKIPPED: {name}: {reason}")
        return None
    except subprocess.TimeoutExpired:
        return "did not end within 60 s"
    finally:
        subprocess.run(["umount", str(scene.root / "run")], capture_output=True) if os.path.ismount(scene.root / "run") else None
    text = result.stderr
    problems = []
    if result.returncode != 0 if name.startswith("warning:") else not 0 < result.returncode < 128:
        problems.append(f"exit code {result.returncode}")
    problems += [f"lacks '{word}'" for word in words if word not in text]
    problems += [f"holds '{word}'" for word in FORBIDDEN if word in text]
    if "two ranks" not in name and len(text.strip().splitlines()) > 6:
        problems.append(f"{len(text.strip().splitlines())} lines")
    if not text.strip():
        problems.append("no message")
    return (", ".join(problems) + "\n    " + text.strip()[:1500].replace("\n", "\n    ")) if problems else ""


def main():
    words = [word for word in sys.argv[1:] if word != "--full"]
    wanted = words[0] if words else ""
    stride = 1 if wanted or "--full" in sys.argv else 3
    failures = checked = 0
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(Path(folder) / "model", hidden=32, layers=2)
        Scene.large_model = make_model(Path(folder) / "large", hidden=128, intermediate=256, layers=2)
        for number, (name, words, prepare) in enumerate(CASES):
            if wanted not in name or number % stride != 0:
                continue
            root = Path(folder) / str(number)
            root.mkdir()
            problem = check(name, words, prepare, Scene(root, model))
            shutil.rmtree(root, ignore_errors=True)
            checked += problem is not None
            if problem:
                failures += 1
                print(f"FAILED {name}: {problem}", flush=True)
        cores = [str(p) for p in Path.cwd().glob("core*") if p.is_file() and p.name[4:].strip(".").isdigit() or p.name == "core" and p.is_file()]
        assert not cores, cores
    print(f"{checked} kinds of bad input, {failures} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
