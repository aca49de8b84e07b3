"""From run directories to tables, figures and tests of differences."""
