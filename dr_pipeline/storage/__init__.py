"""Files by URI, on a local disk or in a remote storage, through fsspec."""

from dr_pipeline.storage.storage import LEADS_NOWHERE, Listing, Storage, cache_folder, refuse_fleeting

__all__ = ["LEADS_NOWHERE", "Listing", "Storage", "cache_folder", "refuse_fleeting"]
