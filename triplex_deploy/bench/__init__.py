"""How fast a bundle is here: graphs and whole slides, measured, recorded and compared."""
