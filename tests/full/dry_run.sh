#!/usr/bin/env bash
# What every rank sends in every layout with every schedule, against a dry run.
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PYTHONDONTWRITEBYTECODE=1
exec "$TESSERA_ENV/bin/python" tests/e2e/dry_run.py --full
