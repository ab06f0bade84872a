"""AlpacaEval on the answers of a run: files for the alpaca_eval package, and its judgements as result files."""
