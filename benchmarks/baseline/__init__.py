"""What our service is compared with: Flask and Celery as people first write it, tuned, and with no queue.

Knows nothing of Coatcheck: no module here imports it.
"""
