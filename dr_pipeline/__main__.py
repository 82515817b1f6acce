"""`python -m dr_pipeline`: what the job files' first line calls."""

import sys

from dr_pipeline.cli import main

sys.exit(main())
