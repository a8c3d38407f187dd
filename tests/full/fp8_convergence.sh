#!/usr/bin/env bash
# FP8 against float32 over 500 steps, three seeds; some hours on two cores.
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PYTHONDONTWRITEBYTECODE=1
exec "$TESSERA_ENV/bin/python" tests/full/fp8_convergence.py --work "${TESSERA_FP8_WORK:-runs/fp8-convergence}"
