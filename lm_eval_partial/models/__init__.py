"""What lm-eval sees: the model types."""
