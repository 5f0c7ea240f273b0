"""Training of one trial: phases, forward pass, training step, optimizers, regularizers, evaluation.

Imports the rows above `training`. An optimizer, a schedule, a loss or a regularizer is a function or class and a line
that registers it.
"""
