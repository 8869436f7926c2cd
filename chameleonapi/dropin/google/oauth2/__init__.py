"""google.oauth2, by the drop-in client: credentials are accepted and not needed."""
