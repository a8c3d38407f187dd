#!/usr/bin/env bash
# Every fault in every kind of layout; the resumed curves are those of runs that nothing happened to.
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PYTHONDONTWRITEBYTECODE=1
exec "$TESSERA_ENV/bin/python" tests/e2e/layout_faults.py --full
