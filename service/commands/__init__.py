"""The commands of the service. Each module is imported only when its command runs."""
