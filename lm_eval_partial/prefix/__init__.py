"""What requests share is computed once; knows transformers, not lm-eval."""
