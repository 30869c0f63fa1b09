"""Statistics of all sites through exact secure sums, under each site's own policy."""
