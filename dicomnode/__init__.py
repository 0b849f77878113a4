"""The node itself: network, series, results, work, web and command line."""
