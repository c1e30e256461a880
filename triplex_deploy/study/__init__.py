"""Compare models over data sets, folds and seeds, and make tables and figures of them."""
