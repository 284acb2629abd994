"""Broker users and a database, as the acceptance tests have them."""

from tests.acceptance.conftest import documents, url_of, url_with_rights

__all__ = ["documents", "url_of", "url_with_rights"]
