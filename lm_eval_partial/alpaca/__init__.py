"""AlpacaEval on the answers of a run: files for the alpaca_eval package, judgements as results."""
