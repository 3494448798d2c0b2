"""What can go wrong in the sandbox node, with the words and status codes of Qdrant.

Source: the prefixes and codes a Qdrant 1.18 answers with (tests/recordings).
"""


class QdrantError(Exception):
    """A refusal as a client sees it: an HTTP status and the full error text."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def bad_request(text: str) -> QdrantError:
    """Build a 400 with the prefix Qdrant gives to requests that make no sense here."""
    return QdrantError(400, f"Bad request: {text}")


def wrong_input(text: str) -> QdrantError:
    """Build a 400 with the prefix Qdrant gives to input that does not fit the data."""
    return QdrantError(400, f"Wrong input: {text}")


def already_exists(name: str) -> QdrantError:
    """Build the 409 for a name that is taken by a collection."""
    return QdrantError(409, f"Wrong input: Collection `{name}` already exists!")


def checksum_mismatch(text: str) -> QdrantError:
    """Build the 400 of an upload whose bytes do not hash to what was promised."""
    return QdrantError(400, f"Checksum mismatch: {text}")


def forbidden(text: str) -> QdrantError:
    """Build a 403 for a caller or a place that is not allowed."""
    return QdrantError(403, f"Forbidden: {text}")


def not_found(text: str) -> QdrantError:
    """Build a 404 for a collection, shard, snapshot or point that is not there."""
    return QdrantError(404, f"Not found: {text}")


def no_collection(name: str) -> QdrantError:
    """Build the 404 for an unknown collection (or alias)."""
    return not_found(f"Collection `{name}` doesn't exist!")


def internal(text: str) -> QdrantError:
    """Build a 500: the engine, the disk or a source failed."""
    return QdrantError(500, f"Service internal error: {text}")


def bad_format(text: str) -> QdrantError:
    """Build the 400 of a JSON body that does not parse or lacks something."""
    return QdrantError(400, f"Format error in JSON body: {text}")


def invalid(text: str, where: str = "JSON body") -> QdrantError:
    """Build the 422 of a value that parses but is out of bounds; `where` names the place."""
    return QdrantError(422, f"Validation error in {where}: [{text}]")
