"""Every kind of bad input that is known, and what becomes of it: the test's cases, and docs/bad_input.md."""

from tests.bad_input.corpus.images import IMAGES, TEXTS
from tests.bad_input.corpus.members import JSON, MEMBERS
from tests.bad_input.corpus.tars import TARS

CORPUS = {"Images": IMAGES, "Texts": TEXTS, "Members and keys": MEMBERS, "JSON": JSON, "Tars": TARS}
KINDS = [kind for kinds in CORPUS.values() for kind in kinds]
