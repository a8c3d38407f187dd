#!/usr/bin/env bash
# Ranks on two hosts of a network made of namespaces, and its link cut.
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PYTHONDONTWRITEBYTECODE=1
exec "$TESSERA_ENV/bin/python" tests/e2e/two_hosts.py
