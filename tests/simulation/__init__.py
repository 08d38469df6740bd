"""A seeded simulation of the whole control plane: the real rules and the real folding, all else simulated.

`python -m simulation --seeds 20000` (with `tests/` on the path). What is simulated, and what has to hold whatever
happens, is described in `docs/simulation.md`.
"""
