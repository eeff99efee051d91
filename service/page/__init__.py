"""The web page: a shell that the server renders, and JavaScript modules that call the API."""
