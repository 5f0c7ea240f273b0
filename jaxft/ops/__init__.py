"""Operations that networks are made of, each with the values and gradients of XLA's own."""
