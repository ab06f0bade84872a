"""Result files become numbers; imports neither torch nor lm_eval."""
