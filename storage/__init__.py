"""What the node keeps: objects on disk, the database, its queues and the audit chain."""
