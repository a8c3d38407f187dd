#!/usr/bin/env bash
# Balancing evens out a skewed router within 100 steps of the tiny DeepSeek-V3, and without it the skew stays.
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PYTHONDONTWRITEBYTECODE=1
exec "$TESSERA_ENV/bin/python" tests/e2e/balancing.py
