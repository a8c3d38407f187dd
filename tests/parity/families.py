"""Random small folders of every model family, made with transformers, and how near their routers are to another choice.

A float32 model that routes is only comparable where no token sits between two experts: rounding would decide. Every folder
is made with the first seed whose routers leave a margin of MARGIN on all tokens of the test (rounding is about 1e-6)."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (DeepseekV2Config, DeepseekV2ForCausalLM, DeepseekV3Config, DeepseekV3ForCausalLM, LlamaConfig,
                          LlamaForCausalLM, MistralConfig, MistralForCausalLM, MixtralConfig, MixtralForCausalLM, Qwen2Config,
                          Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM)

MARGIN = 2e-5
VOCABULARY = 272
STOP = 2

COMMON = dict(vocab_size=VOCABULARY, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
              num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=False, initializer_range=0.1,
              bos_token_id=1, eos_token_id=STOP, pad_token_id=0)
MLA = dict(num_key_value_heads=4, q_lora_rank=40, kv_lora_rank=24, qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=20,
           moe_intermediate_size=40, n_routed_experts=16, num_experts_per_tok=4)
V3 = dict(**MLA, n_shared_experts=1, n_group=4, topk_group=2, first_k_dense_replace=1, routed_scaling_factor=2.5, norm_topk_prob=True)
V2 = dict(**MLA, n_shared_experts=2, first_k_dense_replace=1, routed_scaling_factor=1.5)
YARN = dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=128, beta_fast=32, beta_slow=1)
QWEN_MOE = dict(head_dim=24, num_experts=16, num_experts_per_tok=4, moe_intermediate_size=40)

FAMILIES = {
    "deepseek_v3": (DeepseekV3Config, DeepseekV3ForCausalLM), "deepseek_v2": (DeepseekV2Config, DeepseekV2ForCausalLM),
    "qwen3_moe": (Qwen3MoeConfig, Qwen3MoeForCausalLM), "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM), "llama": (LlamaConfig, LlamaForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM), "mixtral": (MixtralConfig, MixtralForCausalLM),
}

# name: (family, settings). Those of QUICK run in CI, the others with --full.
VARIANTS = {
    "deepseek_v3": ("deepseek_v3", dict(V3, rope_parameters=dict(YARN, mscale=1.0, mscale_all_dim=0.7))),
    "deepseek_v3-plain-q": ("deepseek_v3", dict(V3, q_lora_rank=None, first_k_dense_replace=0, n_group=1, topk_group=1)),
    "deepseek_v3-unnormed": ("deepseek_v3", dict(V3, norm_topk_prob=False, first_k_dense_replace=2, tie_word_embeddings=True)),
    "deepseek_v3-bias": ("deepseek_v3", dict(V3, attention_bias=True, n_shared_experts=2, rms_norm_eps=1e-5)),
    "deepseek_v3-halves": ("deepseek_v3", dict(V3, rope_interleave=False)),
    "deepseek_v3-bf16": ("deepseek_v3", dict(V3)),
    "deepseek_v2": ("deepseek_v2", dict(V2, q_lora_rank=None, rope_parameters=dict(YARN, mscale=0.707, mscale_all_dim=0.707))),
    "deepseek_v2-groups": ("deepseek_v2", dict(V2, topk_method="group_limited_greedy", n_group=4, topk_group=2)),
    "qwen3_moe": ("qwen3_moe", dict(QWEN_MOE, norm_topk_prob=True, mlp_only_layers=[1])),
    "qwen3_moe-unnormed": ("qwen3_moe", dict(QWEN_MOE, norm_topk_prob=False, decoder_sparse_step=2, tie_word_embeddings=True)),
    "qwen3": ("qwen3", dict(head_dim=24, tie_word_embeddings=True)),
    "qwen3-bias": ("qwen3", dict(head_dim=16, attention_bias=True)),
    "qwen2": ("qwen2", dict(rope_parameters=dict(YARN))),
    "qwen2-tied": ("qwen2", dict(tie_word_embeddings=True, num_key_value_heads=1)),
    "mistral": ("mistral", dict(sliding_window=None, head_dim=24)),
    "mixtral": ("mixtral", dict(sliding_window=None, num_local_experts=8, num_experts_per_tok=2)),
    "mixtral-sharded": ("mixtral", dict(sliding_window=None, num_local_experts=4, num_experts_per_tok=4)),
    "llama-yarn": ("llama", dict(rope_parameters=dict(YARN, attention_factor=1.1))),
}
QUICK = ["deepseek_v3", "deepseek_v3-plain-q", "deepseek_v3-bf16", "deepseek_v2-groups", "qwen3_moe", "qwen3", "qwen2", "mistral", "mixtral-sharded"]


def write_tokenizer(folder, size=VOCABULARY):
    """Byte-level, without merges: special ids, and behind them the 256 bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = [f"<{i}>" for i in range(size - len(alphabet))]
    vocabulary = {token: i for i, token in enumerate(special + alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.add_special_tokens(special)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<2>", "bos_token": "<1>"}')


def build(name, seed):
    family, settings = VARIANTS[name]
    config_class, model_class = FAMILIES[family]
    torch.manual_seed(seed)
    model = model_class(config_class(**{**COMMON, **settings})).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith("bias") or "norm" in key:
                parameter.add_(torch.randn_like(parameter) * 0.1)
        for key, buffer in model.named_buffers():
            if key.endswith("e_score_correction_bias"):
                buffer.normal_(std=0.1)
    return model


def router_margins(model, sequences, forward=None):
    """The smallest distance between a chosen and a passed-over expert (or group) over all tokens and layers of `model`."""
    forward = forward or (lambda sequence: model(torch.tensor([sequence])))
    smallest = [float("inf")]

    def gap(values, chosen):
        if chosen < values.shape[-1]:
            ordered = values.sort(dim=-1, descending=True).values
            smallest[0] = min(smallest[0], (ordered[:, chosen - 1] - ordered[:, chosen]).min().item())

    def hook(module, arguments, _):
        x = arguments[0].reshape(-1, arguments[0].shape[-1]).float()
        logits = x @ module.weight.float().T
        bias = getattr(module, "e_score_correction_bias", None)
        scores = logits.sigmoid() + bias if bias is not None else logits.softmax(-1)
        groups = getattr(module, "num_group", None) or 1
        if groups > 1 and getattr(module, "topk_method", "") != "greedy":
            grouped = scores.view(len(x), groups, -1)
            best = grouped.topk(2, -1).values.sum(-1) if bias is not None else grouped.max(-1).values
            gap(best, module.topk_group)
            kept = torch.zeros_like(best).scatter_(1, best.topk(module.topk_group, -1).indices, 1).bool()
            scores = scores.masked_fill(~kept.unsqueeze(-1).expand_as(grouped).reshape(scores.shape), -1e9)
        gap(scores, module.top_k)

    hooks = [m.register_forward_hook(hook) for n, m in model.named_modules() if type(m).__name__.endswith(("TopkRouter", "TopKRouter"))]
    with torch.no_grad():
        for sequence in sequences:
            forward(sequence)
    for handle in hooks:
        handle.remove()
    return smallest[0]


def greedy_reference(model, prompt, count):
    """New ids, without the stop id that ended them."""
    with torch.no_grad():
        ids = model.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), do_sample=False,
                             max_new_tokens=count, pad_token_id=0, eos_token_id=STOP)[0, len(prompt):].tolist()
    return ids[:-1] if ids and ids[-1] == STOP else ids


class Mtp(torch.nn.Module):
    """A DeepSeek-V3 with its first MTP module beside it, made of transformers' layers."""

    def __init__(self, model):
        super().__init__()
        from transformers.modeling_layers import MtpLayer
        from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3DecoderLayer, DeepseekV3RMSNorm
        self.main = model
        self.layer = MtpLayer(model.config, DeepseekV3DecoderLayer, DeepseekV3RMSNorm, model.config.num_hidden_layers)
        with torch.no_grad():
            for key, parameter in self.layer.named_parameters():
                parameter.normal_(std=0.1)
                if "norm" in key:
                    parameter.add_(1.0)
            self.layer.mtp_block.mlp.gate.e_score_correction_bias.normal_(std=0.1)

    def forward(self, ids):
        """Logits of the main model [T, V], and those of the module [T - 1, V]: row i predicts token i + 2."""
        hidden = self.main.model(ids).last_hidden_state
        embedded = self.main.model.embed_tokens(ids[:, 1:])
        length = embedded.shape[1]
        positions = torch.arange(length)[None]
        mask = torch.full((length, length), torch.finfo(torch.float32).min).triu(1)[None, None]
        output = self.layer(embedded, hidden[:, :-1], self.main.model.rotary_emb(embedded, positions), mask, positions, None)
        return self.main.lm_head(hidden)[0], self.main.lm_head(output)[0]

    def public_tensors(self):
        """The module's tensors under the names of published files, experts stacked."""
        prefix = f"model.layers.{self.main.config.num_hidden_layers}."
        names = {"post_norm.weight": "shared_head.norm.weight"}
        tensors = {prefix + names.get(k, k.removeprefix("mtp_block.")): v for k, v in self.layer.state_dict().items()}
        tensors[prefix + "embed_tokens.weight"] = self.main.model.embed_tokens.weight.detach().clone()
        tensors[prefix + "shared_head.head.weight"] = self.main.lm_head.weight.detach().clone()
        return {k: v.detach().clone() for k, v in tensors.items()}
