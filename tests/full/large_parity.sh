#!/usr/bin/env bash
# Parity with transformers at full size: SmolLM2's optimizer step, 20 chats, every variant of every model family,
# tokenizers on more than 1 MB of text with other pre-tokenizers and of other families, and a tokenizer trained on 20 MB.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PYTHONDONTWRITEBYTECODE=1
"$TESSERA_ENV/bin/python" tests/parity/model_parity.py --full
"$TESSERA_ENV/bin/python" tests/parity/families_parity.py --full
"$TESSERA_ENV/bin/python" tests/parity/tokenizer_parity.py --tool "${TESSERA_BINARY:-build/tessera} --quiet tokenize --model" \
  --model models/smollm2-135m --megabytes 1.2 --variants --families
"$TESSERA_ENV/bin/python" tests/parity/train_tokenizer_parity.py --megabytes 20 --vocabulary 30000
