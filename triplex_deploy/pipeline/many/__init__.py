"""Many slides: which to predict, where each result goes, who predicts it, and going on later."""
