"""The commands of `python -m training`, each a thin layer over one function of the package."""
