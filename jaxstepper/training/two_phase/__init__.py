"""The torch system's objective: collect steps that conserve energy, then generalise over them."""
