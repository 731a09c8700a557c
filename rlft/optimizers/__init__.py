"""Optimizers: one file each, with the direction that a step takes.

`scale(**settings)` gives a gradient transformation of optax, from gradients to
a direction; clipping, weight decay, the rate and its schedule are the same for
all, see `training.optimizer`.
"""
