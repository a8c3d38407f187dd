#!/usr/bin/env bash
# Every layout of pipeline, data and expert parallelism with every schedule against one rank; saved in one, resumed in another.
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PYTHONDONTWRITEBYTECODE=1
exec "$TESSERA_ENV/bin/python" tests/e2e/layouts.py --full
