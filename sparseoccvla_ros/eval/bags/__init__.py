"""Plans in any recording against what was driven."""
