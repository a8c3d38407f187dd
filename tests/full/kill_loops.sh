#!/usr/bin/env bash
# Twenty kills of a run at random moments, a third of them during a save; and the loss curves of all layouts.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PYTHONDONTWRITEBYTECODE=1
"$TESSERA_ENV/bin/python" tests/e2e/kill_resume.py --kills "${KILLS:-20}" --seed "${SEED:-7}"
"$TESSERA_ENV/bin/python" tests/e2e/curves.py --full
