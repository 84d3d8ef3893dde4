"""Files that were made once and are read by every build."""
