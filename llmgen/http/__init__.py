"""HTTP: the client, the JSON that it shares with the service and the command line, and the requests below both."""
