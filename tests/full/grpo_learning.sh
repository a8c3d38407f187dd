#!/usr/bin/env bash
# GRPO teaches a tiny DeepSeek-V3 and SmolLM2-135M, three seeds each.
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PYTHONDONTWRITEBYTECODE=1
status=0
for case in tiny-deepseek smollm2; do
  "$TESSERA_ENV/bin/python" tests/full/grpo_learning.py "$case" || status=1
done
exit $status
