"""A container for grand-challenge.org that answers with trained weights and the examples that travel with them."""
