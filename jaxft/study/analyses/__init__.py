"""Analyses of the final weights of a study: `config.analyses` names them, the registry `ANALYSES` has them."""
