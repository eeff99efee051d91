"""HTTP: requests are parsed here, and responses are written here."""
