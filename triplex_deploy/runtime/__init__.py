"""Run a bundle's graphs: one ``Session`` per graph, dict of arrays in, dict of arrays out."""
