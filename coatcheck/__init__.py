"""The core that web and workers share. Knows no Flask, no Celery task and no torch."""
