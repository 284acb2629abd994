"""The desk's page: dead letters in the browser, on the same functions as the command line."""
