"""Small tokenizers with exactly the parts of the families that Tessera reads, trained on text found on the machine."""

import json

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CL100K = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
          r"\s+(?!\S)|\s+")
DEEPSEEK_WORDS = ("[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
                  " ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+")
CHINESE = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
VOCABULARY = 3000


def isolated(pattern):
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def byte_level(*steps, regex=False, prefix=False):
    last = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=regex)
    return pre_tokenizers.Sequence([*steps, last]) if steps else last


def train(tokenizer, texts, special, alphabet, **options):
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False, **options))
    return tokenizer


def bytes_family(texts, pre, special=(), added=(), normalizer=None, post=None, **model):
    """A byte-level model. `post` is made from the tokenizer, which knows the ids."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    train(tokenizer, texts, list(special), pre_tokenizers.ByteLevel.alphabet())
    tokenizer.add_tokens([AddedToken(content, **flags) for content, flags in added])
    if post is not None:
        tokenizer.post_processor = post(tokenizer)
    data = json.loads(tokenizer.to_str())
    data["model"].update(model)
    return data


def characters_family(texts, normalizer=None, pre=None, decoder=None, fuse=True, fallback=True, post=None):
    """A model of characters with byte fallback, as SentencePiece's converted to tokenizer.json."""
    special = ["<unk>", "<s>", "</s>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=fuse))
    words = pre if pre is not None else pre_tokenizers.Metaspace()
    tokenizer.pre_tokenizer = words
    train(tokenizer, texts, special, [], limit_alphabet=120)
    tokenizer.add_tokens([AddedToken("<added>", lstrip=True, rstrip=True), AddedToken("<lone>", single_word=True),
                          AddedToken("th\u00e9", normalized=True)])
    data = json.loads(tokenizer.to_str())
    data["model"]["byte_fallback"] = fallback
    if fallback:
        vocabulary, size = data["model"]["vocab"], len(data["model"]["vocab"])
        added = {token["content"]: token for token in data["added_tokens"]}
        for token in added.values():
            if token["id"] >= size:
                token["id"] += 256
        vocabulary.update({f"<0x{byte:02X}>": size + byte for byte in range(256)})
    built = Tokenizer.from_str(json.dumps(data))
    if normalizer is not None:
        built.normalizer = normalizer
    built.pre_tokenizer = pre
    if decoder is not None:
        built.decoder = decoder
    if post is not None:
        built.post_processor = post(built)
    return json.loads(built.to_str())


def opening(token):
    return lambda tokenizer: processors.TemplateProcessing(
        single=f"{token} $A", pair=f"{token} $A {token} $B", special_tokens=[(token, tokenizer.token_to_id(token))])


def families(texts):
    """(name, tokenizer.json) of each family."""
    deepseek = ["<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>"]
    extra = [("<\uff5cUser\uff5c>", {}), ("<\uff5cAssistant\uff5c>", {}), ("<think>", {"normalized": True}),
             ("<added>", {"lstrip": True, "rstrip": True}), ("<lone>", {"single_word": True})]
    yield "deepseek-v3", bytes_family(
        texts, byte_level(isolated(r"\p{N}{1,3}"), isolated("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"), isolated(DEEPSEEK_WORDS)),
        deepseek, extra, normalizer=normalizers.Sequence([]))
    letters = r"\s?[A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u0370-\u0373\u0376\u0377\u0400-\u0481\u0531-\u0556]+"
    yield "deepseek-llm", bytes_family(
        texts, byte_level(isolated("[\r\n]"), isolated(letters), isolated(r"\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+"),
                          isolated(r"\s+$"), isolated(CHINESE), pre_tokenizers.Digits(individual_digits=True)),
        deepseek, extra)
    yield "deepseek-coder", bytes_family(
        texts, byte_level(isolated("[\r\n]"), isolated(r"\s?\p{L}+"), isolated(r"\s?\p{P}+"), isolated(CHINESE),
                          pre_tokenizers.Digits(individual_digits=True)), deepseek, extra)
    chat = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    yield "qwen2", bytes_family(texts, byte_level(isolated(CL100K % "")), chat,
                                [("<tool_call>", {}), ("<th\u00e9>", {"normalized": True})], normalizer=normalizers.NFC())
    yield "llama3", bytes_family(texts, byte_level(isolated(CL100K % "{1,3}")), ["<|begin_of_text|>", "<|eot_id|>"],
                                 post=lambda t: processors.Sequence([processors.ByteLevel(trim_offsets=False),
                                                                     opening("<|begin_of_text|>")(t)]), ignore_merges=True)
    yield "gpt2", bytes_family(texts, byte_level(regex=True, prefix=True), ["<|endoftext|>"], normalizer=normalizers.NFKC())
    llama2_decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
                                        decoders.Strip(" ", 1, 0)])
    yield "llama2", characters_family(
        texts, normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]),
        decoder=llama2_decoder, post=opening("<s>"))
    yield "mistral", characters_family(
        texts, pre=pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="first", split=False), decoder=llama2_decoder,
        post=opening("<s>"))
    yield "metaspace", characters_family(texts, pre=pre_tokenizers.Metaspace(prepend_scheme="always", split=True),
                                         decoder=decoders.Metaspace(prepend_scheme="always"), fuse=False, fallback=False)
    yield "gemma", characters_family(
        texts, normalizers.Replace(" ", "\u2581"), pre=pre_tokenizers.Split(" ", "merged_with_previous"),
        decoder=decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]), post=opening("<s>"))
