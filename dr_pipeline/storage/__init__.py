"""Files by URI, on a local disk or in a remote storage: read, listed, published whole, leased by one run at a time."""

from dr_pipeline.storage.errors import StorageError
from dr_pipeline.storage.lease import Lease
from dr_pipeline.storage.naming import LEADS_NOWHERE, Listing
from dr_pipeline.storage.storage import Storage, cache_folder, refuse_ray_working_dir

__all__ = ["LEADS_NOWHERE", "Lease", "Listing", "Storage", "StorageError", "cache_folder", "refuse_ray_working_dir"]
