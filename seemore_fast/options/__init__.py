"""Option files in BasicSR's layout: read, checked, and the weights that they name."""
