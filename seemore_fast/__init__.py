"""seemore-fast: SeemoRe image super-resolution at hardware speed."""
