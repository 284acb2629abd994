"""The MongoDB adapter. The only place that imports pymongo and bson; what it raises comes from `worker.failure`."""
