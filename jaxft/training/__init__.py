"""Training one trial: phases, the forward pass, the step, optimizers, regularizers, evaluation.

Imports all rows up to `features`. An optimizer or a regularizer is a file and a registry line.
"""
