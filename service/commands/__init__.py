"""The commands beside `serve`: each module is imported only when its command runs."""
