"""Where credentials for a storage come from, by the rules of its own client. They are never shown."""

import importlib
from collections.abc import Mapping
from typing import Any

from botocore.session import Session

from dr_pipeline.errors import ConfigError

_OF_S3 = {"env": "environment variables", "iam-role": "the machine's role", "container-role": "the container's role"}


def source_of_credentials(uri: str, options: Mapping[str, Any]) -> str | None:
    """Where a client finds the credentials for a URI, in words; None where it needs none.

    Raises ConfigError where it finds none, with what to do.
    """
    scheme = uri.partition("://")[0] if "://" in uri else ""
    if options.get("anon") or options.get("token") == "anon":
        return "none: anon"
    if scheme in ("gs", "gcs"):
        return "the job's storage options" if options.get("token") else _google_default()
    if scheme not in ("s3", "s3a"):
        return None
    if options.get("key"):
        return "the job's storage options"
    found = Session(profile=options.get("profile")).get_credentials()
    if found is None:
        raise ConfigError(
            "no credentials for s3://: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give the "
            "machine a role; a bucket that is open to all is read with storage.anon=true"
        )
    return _OF_S3.get(found.method, found.method)


def _google_default() -> str:
    """Who Google's client is on this machine. Raises ConfigError."""
    try:
        importlib.import_module("gcsfs")
        google = importlib.import_module("google.auth")
    except ImportError:
        raise ConfigError("gs:// needs gcsfs: pip install gcsfs") from None
    try:
        credentials, _ = google.default()
    except google.exceptions.DefaultCredentialsError:
        raise ConfigError(
            "no credentials for gs://: run `gcloud auth application-default login`, or set "
            "GOOGLE_APPLICATION_CREDENTIALS, or give the machine a service account"
        ) from None
    return f"Google's application default ({type(credentials).__name__})"
