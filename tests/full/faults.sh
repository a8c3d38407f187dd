#!/usr/bin/env bash
# Every kind of bad input; either rank killed or stopped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PYTHONDONTWRITEBYTECODE=1
"$TESSERA_ENV/bin/python" tests/e2e/bad_inputs.py --full
"$TESSERA_ENV/bin/python" tests/e2e/faults.py --full
