"""Reports of audits: their data, and how they are shown."""
