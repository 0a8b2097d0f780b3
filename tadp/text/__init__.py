"""From text to embeddings: encoders, tokenizers, learned tokens, and what each token stands for."""
