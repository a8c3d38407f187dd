#!/usr/bin/env bash
# GRPO teaches a tiny DeepSeek-V3, three seeds.
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PYTHONDONTWRITEBYTECODE=1
exec "$TESSERA_ENV/bin/python" tests/full/grpo_learning.py
