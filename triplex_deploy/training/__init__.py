"""From measured sections to a trained checkpoint: features cached once, folds, loop, evaluation."""
