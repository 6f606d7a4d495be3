"""This package measures how faithful a twin is to another world: an arm, recorded episodes, or another domain.

probes    the same situations and motions in two worlds ─┐
replay    episodes of the arm ───────────────────────────┼─► compare ─► measure ─► verdict ─► fidelity.json
runs      evaluations of one policy in both worlds ──────┘
"""
