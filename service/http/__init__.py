"""The HTTP interface: parses requests and writes responses."""
